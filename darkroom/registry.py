"""Every family and its models. A new family is a new folder under `darkroom/pipelines`; nothing here changes."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Protocol

from darkroom import pipelines
from darkroom.family import Family
from darkroom.serving.networks import ModelSpec, split_label


@cache
def families() -> dict[str, Family]:
    """The `FAMILY` of each family's `family.py`, by name, in the order of the names.

    :raises ValueError: two families use one model name, or a family is not named as its folder.
    """
    found: dict[str, Family] = {}
    known: set[str] = set()
    for name in pipelines.family_names():
        family: Family = importlib.import_module(f"{pipelines.__name__}.{name}.family").FAMILY
        if family.name != name:
            raise ValueError(f"the family in the folder {name} is named {family.name!r}")
        for spec in family.specs:
            if spec.name in known:
                raise ValueError(f"two families have a model named {spec.name!r}; the second one is {name!r}")
            known.add(spec.name)
        found[name] = family
    return found


def all_specs() -> tuple[ModelSpec, ...]:
    """The models of all families.

    :raises ValueError: two families use one model name.
    """
    return tuple(spec for family in families().values() for spec in family.specs)


def family_of(model: str) -> str | None:
    """Return the family of a model in a repository, whatever its label; None if no family has it."""
    plain, _ = split_label(model)
    found = (name for name, family in families().items() if any(spec.name == plain for spec in family.specs))
    return next(found, None)


class ChoosesFamilies(Protocol):
    """The service's settings, as far as `is_chosen` reads them."""

    @property
    def families(self) -> tuple[str, ...]: ...


def is_chosen(model: str, settings: ChoosesFamilies) -> bool:
    """Whether a model of the repository belongs to a family that FAMILIES names; an empty FAMILIES means all. Models of
    no known family always count."""
    family = family_of(model)
    return not settings.families or family is None or family in settings.families
