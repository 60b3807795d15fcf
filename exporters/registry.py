"""Every model that the repository holds, collected from the families: a new family is a new folder, nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import darkroom.pipelines
from darkroom.networks import ModelSpec


def families() -> tuple[str, ...]:
    """The packages under darkroom.pipelines that hold a `networks` module, in alphabetical order."""
    root = darkroom.pipelines
    names = (module.name for module in pkgutil.iter_modules(root.__path__) if module.ispkg)
    return tuple(sorted(name for name in names if importlib.util.find_spec(f"{root.__name__}.{name}.networks")))


def all_specs() -> tuple[ModelSpec, ...]:
    """Networks and pipelines of every family: what the `specs()` of their `networks` modules give.

    :raises ValueError: two families use one model name.
    """
    specs: dict[str, ModelSpec] = {}
    for family in families():
        module = importlib.import_module(f"{darkroom.pipelines.__name__}.{family}.networks")
        for spec in module.specs():
            if spec.name in specs:
                raise ValueError(f"two families have a model named {spec.name!r}; the second one is {family!r}")
            specs[spec.name] = spec
    return tuple(specs.values())
