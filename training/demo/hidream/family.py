"""The family as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.demo.hidream import card
from training.family import DemoFamily

if TYPE_CHECKING:
    from training.trainer import Report, TrainingRun, TrainingStage

_VAE = "hidream-vae"
_FIRST_VAE = "vae"
"""The stage of the other demo checkpoint's VAE, which has learned of the same images."""


def _make_stage(name: str, run: TrainingRun, report: Report) -> TrainingStage:
    if name == _VAE:
        from training.demo.hidream.models import make_vae
        from training.vae_stage import VaeStage

        return VaeStage(run, name, make_vae, after=_FIRST_VAE)
    from training.demo.hidream.stage import HidreamStage

    return HidreamStage(run, report)


def _save(run: TrainingRun, folder: Path) -> None:
    from training.demo.hidream.checkpoint import save

    save(run, folder)


def _load(checkpoints: Path) -> dict[str, tuple[Path, Any]]:
    from training.demo.hidream.checkpoint import load

    return dict(load(checkpoints))


def _load_pipeline(folder: Path) -> Any:
    from training.demo.hidream.checkpoint import load_pipeline

    return load_pipeline(folder)


FAMILY = DemoFamily(
    name="hidream",
    stages={_VAE: 2000, "hidream": 5000},
    folder=card.FOLDER,
    guidance=card.GUIDANCE,
    make_stage=_make_stage,
    save=_save,
    load=_load,
    load_pipeline=_load_pipeline,
    cards={card.FOLDER: card.card},
)
