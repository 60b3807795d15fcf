"""One run from images to a LoRA file, in this process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from darkroom.errors import Conflict, InvalidInput
from darkroom.files import write_atomically
from darkroom.locks import try_lock
from darkroom.request.training import TrainingOptions
from exporters.checkpoints.files import read_json
from exporters.errors import ExportError
from training.lora.cache import SampleCache
from training.lora.curve import loss_curve
from training.lora.family import find_checkpoint
from training.lora.file import lora_file
from training.lora.plan import prepare
from training.lora.trainer import LoraTrainer, Report, Stopped

EPOCHS, CURVE = "epochs", "loss.svg"
"""In the state folder: the LoRAs of the epochs that samples are made of, and the picture of the loss."""
_LOCK_SECONDS = 60.0
"""How long a run waits for another one in its state folder, which may just be ending."""


@dataclass(frozen=True, kw_only=True)
class LoraRun:
    """The images, the checkpoint and the folders of a run.

    :param images: a folder with captioned images in it or in its sub-folders.
    :param checkpoint: a folder, a single file, or a hub id.
    :param state: a folder for everything that a resumed run needs. It belongs to one training.
    :param output: the LoRA file.
    :param title: what its metadata call it.
    :param threads: of the CPU; a resumed run uses as many as it began with.
    :param save_seconds: between saved states.
    """

    images: Path
    checkpoint: str
    state: Path
    output: Path
    title: str
    options: TrainingOptions
    device: torch.device
    threads: int
    save_seconds: float


def run_training(run: LoraRun, report: Report, stop: threading.Event) -> None:
    """Train, or go on with it, and write the LoRA file.

    :param stop: ends the run after the current step.
    :raises Stopped: `stop` was set.
    :raises InvalidInput: images or options cannot be used, the loss is not finite, or the memory does not suffice.
    :raises Conflict: the state folder is another training's, or in use.
    :raises ExportError: the checkpoint cannot be used.
    """
    with _only_one(run.state):
        family, root = find_checkpoint(run.checkpoint)
        plan = prepare(
            run.state,
            run.images,
            run.options,
            checkpoint=run.checkpoint,
            root=root,
            side=_side(root),
            threads=run.threads,
        )
        torch.set_num_threads(plan.threads)
        report({"step": 0, "steps": plan.steps, "images": len(plan.examples)})

        def cached(what: str, done: int) -> None:
            report({"step": 0, "steps": plan.steps, "images": len(plan.examples), what: done})
            if stop.is_set():
                raise Stopped

        with _memory():
            samples = SampleCache(run.state, plan)
            samples.fill(family, root, run.images, run.device, partial(cached, "cached"))
            samples.fill_prior(family, root, run.device, partial(cached, "prior"))
            trainer = LoraTrainer(run.state, plan, family, root, run.device)

            def file() -> bytes:
                prediction, losses = trainer.objective.prediction, trainer.losses
                return lora_file(trainer.weights, plan, family, prediction=prediction, title=run.title, losses=losses)

            def after(step: int) -> None:
                if epoch := plan.sampled.get(step):
                    write_atomically(run.state / EPOCHS / f"{epoch:06}.safetensors", file())
                    report({"step": step, "steps": plan.steps, "epoch": epoch})

            trainer.train(report, stop, run.save_seconds, after)
        write_atomically(run.state / CURVE, loss_curve(trainer.losses))
        write_atomically(run.output, file())


def _side(root: Path) -> int:
    """The side in pixels that a checkpoint was trained at.

    :raises ExportError: its UNet reads more than latents.
    """
    unet = read_json(root, "unet/config.json")
    if unet.get("in_channels", 4) != unet.get("out_channels", 4):
        raise ExportError(f"{root.name} is a checkpoint for inpainting; LoRAs of such a one cannot be trained.")
    latents = int(unet.get("sample_size") or 64)
    levels = len(read_json(root, "vae/config.json").get("block_out_channels", ())) or 4
    return int(latents * 2 ** (levels - 1))


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a state folder.

    :raises Conflict: another process has it and keeps it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise Conflict("Another process trains in this state folder.")
            time.sleep(0.2)
        yield


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """:raises InvalidInput: the device has not enough memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise InvalidInput(
            "The training does not fit into the memory of the device; a smaller batch_size or resolution may.",
            param="batch_size",
        ) from None
