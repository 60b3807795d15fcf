"""Measures how well the demo checkpoints follow prompts that were held out of training."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from darkroom.files import sha256_file, write_atomically
from exporters.files import sha256
from training.card import ADHERENCE, write_cards
from training.family import DemoFamily
from training.judge import holds, judge
from training.render import SIDE, render
from training.trainer import Report
from training.world import Scene, caption, held_out_scenes

Picture = NDArray[np.uint8]
_BATCH = 10
_SHEET_COLUMNS = 10
_FRAMES = ((200, 40, 40), (40, 160, 70))
"""Around images that do not hold what was asked, and that do."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How images are made for a measurement of a family's checkpoint.

    :param guidance: None = the scale that suits the checkpoint.
    """

    checkpoints: Path
    family: DemoFamily
    prompts: int = 200
    steps: int = 25
    guidance: float | None = None
    seed: int = 0
    device: torch.device

    @property
    def folder(self) -> Path:
        """The folder of the family's checkpoint."""
        return self.checkpoints / self.family.folder

    @property
    def scale(self) -> float:
        """The guidance scale."""
        return self.family.guidance if self.guidance is None else self.guidance

    def scenes(self) -> list[Scene]:
        """Scenes that training never saw, half of them with two objects."""
        half = self.prompts // 2
        return [*held_out_scenes(half, objects=1), *held_out_scenes(self.prompts - half, objects=2)]

    def generators(self, start: int, count: int) -> list[torch.Generator]:
        """The random numbers of `count` images from number `start` on."""
        return [torch.Generator().manual_seed(self.seed + start + number) for number in range(count)]


def measure_adherence(settings: Measurement, report: Report) -> dict[str, Any]:
    """Make an image for each held-out prompt, half of them with two objects, and judge it.

    Writes adherence.json and adherence.jpg beside the checkpoint, and updates its card.
    """
    scenes, folder = settings.scenes(), settings.folder
    pipeline = load_pipeline(settings.family, folder).to(settings.device)

    def make(start: int, prompts: list[str]) -> list[Picture]:
        return as_pictures(
            pipeline(
                prompts,
                width=SIDE,
                height=SIDE,
                num_inference_steps=settings.steps,
                guidance_scale=settings.scale,
                generator=settings.generators(start, len(prompts)),
                output_type="np",
            ).images
        )

    pictures = in_batches(scenes, make, report)
    verdicts = [judge(picture) for picture in pictures]
    good = [holds(scene, verdict) for scene, verdict in zip(scenes, verdicts, strict=True)]
    rng = random.Random(settings.seed)
    rendered = [render(scene, rng) for scene in scenes]
    decoded = _through_vae(pipeline.vae, rendered)
    result = {
        "weights": weights_digest(folder),
        "prompts": len(scenes),
        "scheduler": type(pipeline.scheduler).__name__,
        "steps": settings.steps,
        "guidance": settings.scale,
        "seed": settings.seed,
        "precision": f"fp32 on {settings.device.type}",
        "groups": _groups(scenes, good),
        "style_right": sum(v.scene.style == s.style for s, v in zip(scenes, verdicts, strict=True)),
        "background_right": sum(v.scene.background == s.background for s, v in zip(scenes, verdicts, strict=True)),
        "places_right": sum(_places(v.scene) == _places(s) for s, v in zip(scenes, verdicts, strict=True)),
        "whole_scene_right": sum(v.sure and v.scene == s for s, v in zip(scenes, verdicts, strict=True)),
        "judge_rendered": _share(scenes, rendered),
        "judge_vae": _share(scenes, decoded),
        "vae_psnr_db": round(psnr(rendered, decoded), 2),
        "misses": [
            {"asked": caption(scene), "seen": caption(verdict.scene), "explained": round(verdict.explained, 2)}
            for scene, verdict, right in zip(scenes, verdicts, good, strict=True)
            if not right
        ],
    }
    write_atomically(folder / ADHERENCE, (json.dumps(result, indent=2) + "\n").encode())
    half = settings.prompts // 2
    chosen = [*range(min(30, half)), *range(half, min(half + 30, len(scenes)))]
    write_sheet(folder / "adherence.jpg", [framed(pictures[i], good[i]) for i in chosen])
    write_cards(settings.checkpoints)
    return result


def weights_digest(*folders: Path) -> str:
    """Return a digest of the weights of some checkpoints. A measurement records it, to show which weights it is of."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
    return sha256("".join(sha256_file(file) for file in files).encode())


def load_pipeline(family: DemoFamily, folder: Path) -> Any:
    """diffusers' pipeline of a checkpoint, for images of the demo world."""
    pipeline = family.load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _places(scene: Scene) -> list[str]:
    return [item.place for item in scene.objects]


def in_batches(
    scenes: Sequence[Scene], make: Callable[[int, list[str]], list[Picture]], report: Report
) -> list[Picture]:
    """The images of all scenes.

    :param make: images of some captions, the first of which is that of the scene of that number.
    """
    pictures: list[Picture] = []
    for start in range(0, len(scenes), _BATCH):
        pictures += make(start, [caption(scene) for scene in scenes[start : start + _BATCH]])
        report(f"{len(pictures)} of {len(scenes)} pictures")
    return pictures


def as_pictures(images: NDArray[np.float32]) -> list[Picture]:
    """(B, H, W, 3) float 0 to 1 -> uint8 images."""
    return [(image * 255).round().astype(np.uint8) for image in images]


@torch.no_grad()
def _through_vae(vae: AutoencoderKL, pictures: list[Picture]) -> list[Picture]:
    """Encode and decode images with the VAE."""
    made: list[Picture] = []
    for start in range(0, len(pictures), _BATCH):
        batch = torch.from_numpy(np.stack(pictures[start : start + _BATCH])).permute(0, 3, 1, 2)
        values = batch.to(vae.device).float() / 127.5 - 1
        decoded = vae.decode(vae.encode(values).latent_dist.mean).sample
        made += as_pictures((decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
    return made


def psnr(first: list[Picture], second: list[Picture]) -> float:
    """Mean PSNR in dB."""
    errors = [np.square(a.astype(np.float32) - b).mean() for a, b in zip(first, second, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))


def _share(scenes: Sequence[Scene], pictures: list[Picture]) -> float:
    return sum(holds(scene, judge(picture)) for scene, picture in zip(scenes, pictures, strict=True)) / len(scenes)


def _groups(scenes: Sequence[Scene], good: Sequence[bool]) -> dict[str, dict[str, int]]:
    """Count the images of each kind that show what was asked for."""
    groups: dict[str, dict[str, int]] = {}
    for scene, right in zip(scenes, good, strict=True):
        count = "one_object" if len(scene.objects) == 1 else "two_objects"
        for name in (count, f"{count},_{scene.style}"):
            group = groups.setdefault(name, {"prompts": 0, "holds": 0})
            group["prompts"] += 1
            group["holds"] += right
    return dict(sorted(groups.items()))


def framed(picture: Picture, right: bool | None) -> Picture:
    """A picture in a frame that says whether it holds what was asked; None = it was not judged."""
    made = np.full((SIDE + 6, SIDE + 6, 3), 255, np.uint8)
    if right is not None:
        made[:] = _FRAMES[right]
    made[3:-3, 3:-3] = picture
    return made


def write_sheet(path: Path, tiles: list[Picture]) -> None:
    """Tiles of one size, ten a row; the last row is filled with white."""
    blank = np.full_like(tiles[0], 255)
    tiles = tiles + [blank] * (-len(tiles) % _SHEET_COLUMNS)
    rows = [np.concatenate(tiles[i : i + _SHEET_COLUMNS], axis=1) for i in range(0, len(tiles), _SHEET_COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(path, quality=85)
