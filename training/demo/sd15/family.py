"""The family as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.demo.sd15 import card
from training.family import DemoFamily, Measure

if TYPE_CHECKING:
    from training.measure import Measurement
    from training.trainer import Report, TrainingRun, TrainingStage


def _make_stage(name: str, run: TrainingRun, report: Report) -> TrainingStage:
    if name == "vae":
        from training.networks import make_vae
        from training.vae_stage import VaeStage

        return VaeStage(run, name, make_vae)
    if name == "unet":
        from training.demo.sd15.unet_stage import UnetStage

        return UnetStage(run, report)
    from training.demo.sd15.controlnet_stage import ControlnetStage

    return ControlnetStage(run, report)


def _save(run: TrainingRun, folder: Path) -> None:
    from training.demo.sd15.checkpoint import save

    save(run, folder)


def _load(checkpoints: Path) -> dict[str, tuple[Path, Any]]:
    from training.demo.sd15.checkpoint import load

    return dict(load(checkpoints))


def _load_pipeline(folder: Path) -> Any:
    from training.demo.sd15.checkpoint import load_pipeline

    return load_pipeline(folder)


def _measure_canny(settings: Measurement, report: Report) -> dict[str, Any]:
    from training.demo.sd15.canny import measure_canny

    return measure_canny(settings, report)


FAMILY = DemoFamily(
    name="sd15",
    stages={"vae": 4500, "unet": 6000, "controlnet": 2500},
    folder=card.TEXT,
    others=(card.CONTROL,),
    guidance=card.GUIDANCE,
    make_stage=_make_stage,
    save=_save,
    load=_load,
    load_pipeline=_load_pipeline,
    cards={card.TEXT: card.text_card, card.CONTROL: card.control_card},
    measures={
        "canny": Measure(
            help="Measure the ControlNet instead of adherence.",
            run=_measure_canny,
            line=lambda r: f"F1 of edges: {r['f1']:.3f}; {r['holds']} of {r['prompts']} hold their prompt",
        )
    },
    usual=True,
)
