"""LoRA trainings on tiny checkpoints of each family."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from darkroom.request.training import TrainingOptions
from tests import sd15_checkpoints, tiny_sdxl
from tests.pictures import photo
from training.lora.run import LoraRun, run_training

OPTIONS: dict[str, Any] = {"seed": 3, "batch_size": 2, "resolution": 128, "learning_rate": 1e-3}
WRITERS: dict[str, Callable[[Path], Any]] = {
    "sdxl": tiny_sdxl.write_checkpoint,
    "sd15": sd15_checkpoints.write_checkpoint,
}


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """A tiny checkpoint of each family."""
    for name, write in WRITERS.items():
        write(folder / name)
    return {name: folder / name for name in WRITERS}


def write_images(folder: Path) -> Path:
    """Four images of two shapes, as a session has them, and what is none."""
    for index, size in enumerate([(120, 120), (260, 70), (90, 100), (100, 96)]):
        group = folder / str(index)
        group.mkdir(parents=True)
        photo(20 * index, 10, *size).save(group / f"{index}.png")
        (group / f"{index}.txt").write_text(f"a photo of a cat, number {index}")
    (folder / "0" / "other.png").write_bytes(b"an image without a caption is not looked at")
    (folder / "lora_1.safetensors").write_bytes(b"nor is this")
    return folder


def run_of(folder: Path, images: Path, checkpoint: Path, **options: Any) -> LoraRun:
    return LoraRun(
        images=images,
        checkpoint=str(checkpoint),
        state=folder / "state",
        output=folder / "made.safetensors",
        title="my cat",
        options=TrainingOptions.parse({**OPTIONS, **options}, None),
        device=torch.device("cpu"),
        threads=1,
        save_seconds=3600.0,
    )


def trained(run: LoraRun, stop: threading.Event | None = None) -> list[dict[str, Any]]:
    """Run it; what it said."""
    said: list[dict[str, Any]] = []
    run_training(run, said.append, stop or threading.Event())
    return said


def losses_of(said: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in said if "loss" in line]
