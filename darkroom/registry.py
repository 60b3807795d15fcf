"""Every model of every family. A new family is a new folder under `darkroom/pipelines`; nothing here changes."""

from __future__ import annotations

import importlib
import pkgutil

from darkroom import pipelines
from darkroom.serving.networks import ModelSpec, split_label


def families() -> dict[str, tuple[ModelSpec, ...]]:
    """What the `specs()` of each family's `networks.py` give, in the order of the families' names.

    :raises ValueError: two families use one model name.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg)
    found: dict[str, tuple[ModelSpec, ...]] = {}
    known: set[str] = set()
    for family in names:
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


def family_of(model: str) -> str | None:
    """The family of a model in a repository, whatever its label; None where no family knows it."""
    plain, _ = split_label(model)
    return next((name for name, specs in families().items() if any(spec.name == plain for spec in specs)), None)


def is_chosen(model: str, settings: object) -> bool:
    """Whether FAMILIES, which is empty for all, leaves a model of the repository in. Models that no family knows stay.

    :param settings: the service's.
    """
    chosen, family = getattr(settings, "families", ()), family_of(model)
    return not chosen or family is None or family in chosen
