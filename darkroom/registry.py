"""Every model of every family. A new family is a new folder under `darkroom/pipelines`; nothing here changes."""

from __future__ import annotations

import importlib

from darkroom import pipelines
from darkroom.serving.networks import ModelSpec


def families() -> dict[str, tuple[ModelSpec, ...]]:
    """What the `specs()` of each family's `networks.py` give, in the order of the families' names.

    :raises ValueError: two families use one model name.
    """
    found: dict[str, tuple[ModelSpec, ...]] = {}
    known: set[str] = set()
    for family in pipelines.family_names():
        found[family] = importlib.import_module(f"{pipelines.__name__}.{family}.networks").specs()
        for spec in found[family]:
            if spec.name in known:
                raise ValueError(f"two families have a model named {spec.name!r}; the second one is {family!r}")
            known.add(spec.name)
    return found


def all_specs() -> tuple[ModelSpec, ...]:
    """The models of all families.

    :raises ValueError: two families use one model name.
    """
    return tuple(spec for specs in families().values() for spec in specs)
