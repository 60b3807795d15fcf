"""Writes the trained networks as checkpoints in the diffusers folder layout."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

from training.card import write_cards
from training.family import DemoFamily
from training.trainer import Report, TrainingRun, state_path


def export(run: TrainingRun, output: Path, report: Report, family: DemoFamily) -> None:
    """Write the checkpoints of a family into `output` in fp16, with their cards.

    :raises FileNotFoundError: a stage that is needed was not trained.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".demo-") as name:
        work = Path(name)
        family.save(run, work)
        for made in sorted(work.iterdir()):
            _forget_paths(made)
            _replace(output / made.name, made)
            size = sum(file.stat().st_size for file in (output / made.name).rglob("*") if file.is_file())
            report(f"{made.name}: {size:,} bytes")
    write_cards(output)


def load_as_fp32(config: Path) -> None:
    """Say fp32 in a transformers config: what reads it loads that type, and diffusers loads its own models so too."""
    content = json.loads(config.read_text())
    content["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2) + "\n")


def to_half(model: nn.Module) -> None:
    """To fp16, in place.

    :raises ValueError: a weight does not fit.
    """
    model.half()
    if not all(torch.isfinite(value).all() for value in model.state_dict().values()):
        raise ValueError(f"a weight of {type(model).__name__} does not fit in fp16.")


def write_training(run: TrainingRun, folder: Path, stages: tuple[str, ...]) -> None:
    """Note what training has spent, for the model card."""
    clocks = {}
    for stage in stages:
        state = torch.load(state_path(run, stage), map_location="cpu", weights_only=True)
        clocks[stage] = {**state["clock"], "seed": state["seed"]}
    (folder / "training.json").write_text(json.dumps(clocks, indent=2) + "\n")


def _forget_paths(folder: Path) -> None:
    """Remove from the configs where a network was loaded from, which diffusers notes: a path of this machine."""
    for config in folder.rglob("config.json"):
        content = json.loads(config.read_text())
        if content.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _replace(target: Path, made: Path) -> None:
    """Put a new folder in the place of an old one; measurements of the old weights go with them."""
    old = made.with_name(f"old-{target.name}")
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)
