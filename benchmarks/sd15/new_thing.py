"""What a LoRA learns of a thing that the demo world does not have, and what other prompts lose by it.

Eight images of a drawing on eight backgrounds, under a new word. The judge of the demo world reads the images that the
checkpoint makes without and with the LoRA.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT
from benchmarks.results import Cell, Finding, Section, Table
from training.demo.sd15.family import FAMILY
from training.glyphs import CELL
from training.judge import TRUST, explained_by, holds, judge
from training.measure import as_pictures, load_pipeline
from training.render import CENTRES, JITTERS, SIDE, SIDES
from training.styles import boxed
from training.world import BACKGROUNDS, Scene, caption, held_out_scenes, training_scenes

WORD = "zork"
LEARNT_TARGET, FORGOTTEN_TARGET = 80.0, 10.0
"""At least so many percent of the images of the new word show it; other prompts lose at most so many points."""
_SAMPLING_STEPS = 15
_NEW, _OTHERS = 16, 24
"""Images of the new word, and of other prompts with one object, which the training of the checkpoint never saw."""
_BATCH = 8

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a LoRA is trained.

    :param prior: images that the checkpoint makes of its own captions.
    """

    name: str
    steps: int
    batch_size: int
    prior: int = 0
    rank: int = 16
    learning_rate: float = 1e-3


ALONE = Recipe(name="the 8 images alone", steps=300, batch_size=8)
PRIOR = Recipe(name="with 40 prior images", steps=200, batch_size=4, prior=40)
QUICK = Recipe(name="with 2 prior images", steps=2, batch_size=4, prior=2)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Percent of the images of the new word that show it, and of those of other prompts that show what was asked."""

    new: float
    others: float


def run(context: Context) -> Section:
    """Train by each recipe, and judge."""
    if not context.checkpoint.is_dir():
        raise BenchmarkError(f"{context.checkpoint} is not there.")
    count, others = context.choose(_NEW, 2), held_out_scenes(context.choose(_OTHERS, 2), objects=1)
    torch.set_num_threads(1)
    pipeline = load_pipeline(FAMILY, context.checkpoint)
    context.stage("images without a LoRA")
    before = judged(pipeline, count, others)
    lines: list[tuple[Cell, ...]] = [("without a LoRA", None, None, before.new, before.others)]
    findings = [Finding(name="new word, without a LoRA", value=before.new, unit="%", target=0)]
    with tempfile.TemporaryDirectory(prefix="new-thing-") as name:
        folder = Path(name)
        images = write_images(folder / "images")
        for recipe in (QUICK,) if context.quick else (ALONE, PRIOR):
            context.stage(f"training {recipe.name}", recipe.steps)
            file = train(context.checkpoint, images, folder / "lora.safetensors", recipe, context.step)
            context.stage(f"images {recipe.name}")
            pipeline.load_lora_weights(str(file))
            after = judged(pipeline, count, others)
            pipeline.unload_lora_weights()
            lines.append((recipe.name, recipe.steps, last_losses(file), after.new, after.others))
            findings += _findings(recipe, before, after, counts=recipe is PRIOR)
    table = Table(
        title=f"{count} images of the new word, {len(others)} of other prompts",
        columns=("training", "steps", "loss", "show it, %", "others right, %"),
        rows=tuple(lines),
        note=f"{_SAMPLING_STEPS} steps of DPM-Solver++. The loss is the mean of the last tenth of the steps. One "
        "image of the other prompts is 4 points.",
    )
    return Section(name="sd15_new_thing", title="A LoRA of a new thing", findings=tuple(findings), tables=(table,))


def _findings(recipe: Recipe, before: Judged, after: Judged, *, counts: bool) -> list[Finding]:
    """:param counts: whether the project promises something for this recipe."""
    return [
        Finding(
            name=f"new word, {recipe.name}",
            value=after.new,
            unit="%",
            target=LEARNT_TARGET if counts else None,
            at_least=True,
        ),
        Finding(
            name=f"other prompts lose, {recipe.name}",
            value=before.others - after.others,
            unit="points",
            target=FORGOTTEN_TARGET if counts else None,
        ),
    ]


def new_thing() -> Picture:
    """The drawing: (96, 96, 4) uint8 RGBA."""
    large = Image.new("RGBA", (4 * CELL, 4 * CELL))
    draw = ImageDraw.Draw(large)
    draw.polygon([(192, 8), (376, 192), (192, 376), (8, 192)], fill=(120, 40, 200, 255))
    draw.ellipse([92, 92, 292, 292], fill=(250, 240, 60, 255))
    draw.rectangle([172, 112, 212, 272], fill=(20, 120, 90, 255))
    draw.rectangle([112, 172, 272, 212], fill=(20, 120, 90, 255))
    return np.asarray(large.resize((CELL, CELL), Image.Resampling.LANCZOS))


def prompt(background: str) -> str:
    """What asks for the new thing."""
    return f"a photo of a {WORD} on a {background} background"


def drawn(background: str, rng: random.Random) -> Picture:
    """The new thing as the demo world shows others: (128, 128, 3) uint8 RGB."""
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = BACKGROUNDS[background]
    side = SIDES["medium"]
    x, y = (centre + rng.choice(JITTERS) - side // 2 for centre in CENTRES["centre"])
    thing = boxed(new_thing(), side).astype(np.float32)
    alpha, area = thing[..., 3:] / 255, picture[y : y + side, x : x + side]
    area[:] = area * (1 - alpha) + thing[..., :3] * alpha
    return picture.round().astype(np.uint8)


def write_images(folder: Path) -> Path:
    """Eight images with captions to train on."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for index, background in enumerate(BACKGROUNDS):
        Image.fromarray(drawn(background, rng)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(prompt(background))
    return folder


def prior_prompts(count: int) -> list[str]:
    """Captions of other things, none of them among those that are judged."""
    scenes = (scene for scene in training_scenes(5) if len(scene.objects) == 1)
    return list(islice(dict.fromkeys(map(caption, islice(scenes, 10 * count))), count))


def train(checkpoint: Path, images: Path, output: Path, recipe: Recipe, on_step: Callable[[int], None]) -> Path:
    """Train a LoRA as the command does.

    :raises BenchmarkError: the training failed.
    """
    given: dict[str, Any] = {"checkpoint": checkpoint.absolute(), "output": output, "seed": 1, "threads": 1}
    given |= {"state": _state(output), "steps": recipe.steps, "batch-size": recipe.batch_size, "rank": recipe.rank}
    given |= {"learning-rate": recipe.learning_rate}
    if recipe.prior:
        given |= {"prior-images": recipe.prior, "prior-prompts": json.dumps(prior_prompts(recipe.prior))}
    command = [sys.executable, "-m", "training", "lora", str(images)]
    command += [f"--{name}={value}" for name, value in given.items()]
    for file in _state(output).rglob("*"):
        if file.is_file():
            file.unlink()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                on_step(json.loads(line).get("step", 0))
    if process.returncode:
        raise BenchmarkError(f"The training {recipe.name} ended with code {process.returncode}.")
    return output


def _state(output: Path) -> Path:
    return output.with_suffix(".state")


def last_losses(output: Path) -> float:
    """The mean loss of the last tenth of the steps."""
    rows = (_state(output) / "loss.csv").read_text().splitlines()[1:]
    losses = [float(row.partition(",")[2]) for row in rows]
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def judged(pipeline: Any, count: int, others: Sequence[Scene]) -> Judged:
    """Make images and judge them."""
    backgrounds = tuple(BACKGROUNDS)
    new = made(pipeline, [prompt(backgrounds[index % len(backgrounds)]) for index in range(count)])
    rest = made(pipeline, [caption(scene) for scene in others])
    right = [holds(scene, judge(picture)) for scene, picture in zip(others, rest, strict=True)]
    return Judged(new=100 * float(np.mean([shows(picture) for picture in new])), others=100 * float(np.mean(right)))


def shows(picture: Picture) -> bool:
    """Whether an image shows the new thing, and nothing of the demo world better."""
    explained = explained_by(picture, new_thing())
    return explained >= max(TRUST, judge(picture).explained)


def made(pipeline: Any, prompts: Sequence[str]) -> list[Picture]:
    """An image of each prompt; the k-th one always has the same noise."""
    from diffusers import DPMSolverMultistepScheduler

    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pictures: list[Picture] = []
    for start in range(0, len(prompts), _BATCH):
        batch = list(prompts[start : start + _BATCH])
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(batch))]
        pictures += as_pictures(
            pipeline(
                batch,
                num_inference_steps=_SAMPLING_STEPS,
                guidance_scale=FAMILY.guidance,
                generator=generators,
                output_type="np",
            ).images
        )
    return pictures
