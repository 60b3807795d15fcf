"""Every model of every family. A new family is a new folder under `darkroom/pipelines`; nothing here changes."""

from __future__ import annotations

import importlib
import pkgutil

from darkroom import pipelines
from darkroom.networks import ModelSpec


def all_specs() -> tuple[ModelSpec, ...]:
    """What the `specs()` of all families' `networks.py` give, in the order of the families' names.

    :raises ValueError: two families use one model name.
    """
    families = sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg)
    specs: dict[str, ModelSpec] = {}
    for family in families:
        for spec in importlib.import_module(f"{pipelines.__name__}.{family}.networks").specs():
            if spec.name in specs:
                raise ValueError(f"two families have a model named {spec.name!r}; the second one is {family!r}")
            specs[spec.name] = spec
    return tuple(specs.values())
