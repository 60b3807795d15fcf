"""Units: the models that are loaded and unloaded together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from darkroom.registry import families, is_chosen
from darkroom.serving.networks import ModelSpec, split_label
from darkroom.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The models of one checkpoint of a family.

    :param name: of its pipeline, as requests name the model.
    :param models: the networks, then what calls them.
    """

    name: str
    models: tuple[str, ...]


def units_of(models: Iterable[str]) -> dict[str, Unit]:
    """Return the units of a repository by name.

    Models that are in none stay loaded: those of no known family, networks without their pipeline, and pipelines that
    call no network, which have no weights.

    :param models: the names in the repository.
    """
    known = {spec.name: (family, spec) for family in families().values() for spec in family.specs}
    found: dict[str, list[tuple[bool, str]]] = {}
    for model in sorted(models):
        plain, label = split_label(model)
        family, spec = known.get(plain, (None, None))
        if family is not None and spec is not None and (spec.is_network or spec.calls_networks):
            name = family.pipeline.labelled(label).name
            found.setdefault(name, []).append((not spec.is_network, model))
    units = (Unit(name=name, models=tuple(model for _, model in sorted(those))) for name, those in found.items())
    return {unit.name: unit for unit in units if unit.name in unit.models}


def models_of(settings: Settings) -> list[str]:
    """Return the models of the repository that are to be served."""
    folders = settings.model_repository.iterdir()
    there = (path.name for path in folders if path.is_dir() and not path.name.startswith("."))
    return sorted(name for name in there if is_chosen(name, settings))


def specs_of(models: Iterable[str]) -> Iterator[tuple[str, ModelSpec]]:
    """Each model of a known family, with its spec."""
    known = {spec.name: spec for family in families().values() for spec in family.specs}
    for model in models:
        if (spec := known.get(split_label(model)[0])) is not None:
            yield model, spec
