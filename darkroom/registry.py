"""Every model of every family. A new family is a new folder under `darkroom/pipelines`; nothing here changes."""

from __future__ import annotations

import importlib
import pkgutil

from darkroom import pipelines
from darkroom.networks import ModelSpec


def all_specs() -> tuple[ModelSpec, ...]:
    """The specs of all families' `networks.py`, in the order of the families' names."""
    families = sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg)
    modules = [importlib.import_module(f"{pipelines.__name__}.{family}.networks") for family in families]
    return tuple(spec for module in modules for spec in module.specs())
