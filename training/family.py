"""The families that have demo checkpoints, found by their folders: `training/demo/<family>/family.py`.

A new family is a new folder; nothing else changes. Its module has `FAMILY`, a `DemoFamily`. Modules of families are
imported without torch: what needs it imports it when it is called.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import demo

if TYPE_CHECKING:
    from training.measure import Measurement
    from training.trainer import Report, TrainingRun, TrainingStage


@dataclass(frozen=True, kw_only=True)
class DemoFamily:
    """One family.

    :param stages: what is trained, in the order of training, and how many steps where nothing else is asked for.
    :param folder: of its checkpoint, the whole pipeline.
    :param others: folders of what belongs to the checkpoint, as a ControlNet.
    :param guidance: the guidance scale at which the checkpoint holds most of what is asked.
    :param make_stage: the stage of a name. It raises FileNotFoundError where the state of an earlier stage is missing.
    :param save: writes the trained networks into a folder, one folder for each checkpoint.
    :param load: the modules of each stage from the checkpoints, and the folder that says what it has spent.
    :param load_pipeline: diffusers' pipeline of the checkpoint, for images of the demo world.
    :param cards: the text of each folder's README.md, from the files in the folder.
    :param measures: measurements beside adherence, by the name of their option.
    :param adherence: measures how many results hold what was asked, in groups; None = `measure_adherence`, which is of
        families that draw a scene for a sentence.
    :param usual: whether commands are about this family where none is named.
    """

    name: str
    stages: Mapping[str, int]
    folder: str
    others: tuple[str, ...] = ()
    guidance: float
    make_stage: Callable[[str, TrainingRun, Report], TrainingStage]
    save: Callable[[TrainingRun, Path], None]
    load: Callable[[Path], dict[str, tuple[Path, Any]]]
    load_pipeline: Callable[[Path], Any]
    cards: Mapping[str, Callable[[Path], str]]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    adherence: Callable[[Measurement, Report], dict[str, Any]] | None = None
    usual: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measurement of one family.

    :param run: makes images and judges them; the result goes into a JSON file beside the checkpoint, too.
    :param line: what there is to say of a result, for people.
    """

    help: str
    run: Callable[[Measurement, Report], dict[str, Any]]
    line: Callable[[dict[str, Any]], str]


@cache
def families() -> dict[str, DemoFamily]:
    """Return all families by name, the default one first."""
    names = sorted(module.name for module in pkgutil.iter_modules(demo.__path__) if module.ispkg)
    found: list[DemoFamily] = [importlib.import_module(f"{demo.__name__}.{name}.family").FAMILY for name in names]
    return {family.name: family for family in sorted(found, key=lambda family: not family.usual)}


def family_of_stage(stage: str) -> DemoFamily:
    """Return the family of a stage.

    :raises ValueError: there is no such stage.
    """
    for family in families().values():
        if stage in family.stages:
            return family
    known = ", ".join(stage for family in families().values() for stage in family.stages)
    raise ValueError(f"there is no stage {stage!r}; there are {known}.")
