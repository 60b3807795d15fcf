"""The family as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.demo.sdxl import card
from training.family import DemoFamily

if TYPE_CHECKING:
    from training.trainer import Report, TrainingRun, TrainingStage

BASE, REFINER = "sdxl-base", "sdxl-refiner"
"""The stages."""


def _make_stage(name: str, run: TrainingRun, report: Report) -> TrainingStage:
    from training.demo.sdxl.stages import BaseStage, RefinerStage

    return BaseStage(run, report) if name == BASE else RefinerStage(run, report)


def _save(run: TrainingRun, folder: Path) -> None:
    from training.demo.sdxl.checkpoint import save

    save(run, folder)


def _load(checkpoints: Path) -> dict[str, tuple[Path, Any]]:
    from training.demo.sdxl.checkpoint import load

    return dict(load(checkpoints))


def _load_pipeline(folder: Path) -> Any:
    from training.demo.sdxl.checkpoint import load_pipeline

    return load_pipeline(folder)


FAMILY = DemoFamily(
    name="sdxl",
    stages={BASE: 2500, REFINER: 1500},
    folder=card.BASE,
    others=(card.REFINER,),
    guidance=card.GUIDANCE,
    make_stage=_make_stage,
    save=_save,
    load=_load,
    load_pipeline=_load_pipeline,
    cards={card.BASE: card.base_card, card.REFINER: card.refiner_card},
)
