"""The family as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.demo.qwen_edit import card
from training.family import DemoFamily

if TYPE_CHECKING:
    from training.measure import Measurement
    from training.trainer import Report, TrainingRun, TrainingStage

_VAE, _EDIT = "qwen-edit-vae", "qwen-edit"


def _make_stage(name: str, run: TrainingRun, report: Report) -> TrainingStage:
    if name == _VAE:
        from training.demo.qwen_edit.vae import QwenVaeStage

        return QwenVaeStage(run, name)
    from training.demo.qwen_edit.stage import EditStage

    return EditStage(run, report)


def _save(run: TrainingRun, folder: Path) -> None:
    from training.demo.qwen_edit.checkpoint import save

    save(run, folder)


def _load(checkpoints: Path) -> dict[str, tuple[Path, Any]]:
    from training.demo.qwen_edit.checkpoint import load

    return dict(load(checkpoints))


def _load_pipeline(folder: Path) -> Any:
    from training.demo.qwen_edit.pipeline import load_pipeline

    return load_pipeline(folder)


def _measure(settings: Measurement, report: Report) -> dict[str, Any]:
    from training.demo.qwen_edit.measure import measure_edits

    return measure_edits(settings, report)


FAMILY = DemoFamily(
    name="qwen_edit",
    stages={_VAE: 4000, _EDIT: 6000},
    folder=card.FOLDER,
    guidance=card.GUIDANCE,
    make_stage=_make_stage,
    save=_save,
    load=_load,
    load_pipeline=_load_pipeline,
    cards={card.FOLDER: card.card},
    adherence=_measure,
)
