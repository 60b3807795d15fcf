"""How well the demo checkpoints do what they are asked, on scenes that training never saw."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    HiDreamImagePipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from darkroom.files import write_atomically
from exporters.demo.card import ADHERENCE, CANNY, CONTROL, FOLDERS, GUIDANCE, TEXT, write_cards
from exporters.demo.chunks import canny
from exporters.demo.judge import holds, judge
from exporters.demo.models import SIDE
from exporters.demo.render import render
from exporters.demo.trainer import Report
from exporters.demo.world import Scene, caption, held_out_scenes
from exporters.files import sha256, sha256_file

Picture = NDArray[np.uint8]
_BATCH = 10
_TOLERANCE = 1
"""How far an edge may be from the control's edge, in pixels."""
_SHEET_COLUMNS = 10
_FRAMES = ((200, 40, 40), (40, 160, 70))
"""Around pictures that do not hold what was asked, and that do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pictures are made for a measurement."""

    checkpoints: Path
    family: str = "sd15"
    prompts: int = 200
    steps: int = 25
    guidance: float
    seed: int = 0
    device: torch.device

    @classmethod
    def of(cls, family: str, *, guidance: float | None, **settings: Any) -> Settings:
        """Settings for a family, by default with the guidance scale that suits it."""
        usual = GUIDANCE[FOLDERS[family]]
        return cls(family=family, guidance=usual if guidance is None else guidance, **settings)


def measure_adherence(settings: Settings, report: Report) -> dict[str, Any]:
    """Make a picture for each held-out prompt, half of them with two objects, and judge it.

    Writes adherence.json and adherence.jpg beside the checkpoint, and its card anew.
    """
    half = settings.prompts // 2
    scenes = [*held_out_scenes(half, objects=1), *held_out_scenes(settings.prompts - half, objects=2)]
    folder = settings.checkpoints / FOLDERS[settings.family]
    pipeline = load_pipeline(folder, settings.family).to(settings.device)

    def make(start: int, prompts: list[str]) -> list[Picture]:
        generators = [torch.Generator().manual_seed(settings.seed + start + i) for i in range(len(prompts))]
        return _as_pictures(
            pipeline(
                prompts,
                width=SIDE,
                height=SIDE,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=generators,
                output_type="np",
            ).images
        )

    pictures = _in_batches(scenes, make, report)
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
        "guidance": settings.guidance,
        "seed": settings.seed,
        "precision": f"fp32 on {settings.device.type}",
        "groups": _groups(scenes, good),
        "style_right": sum(v.scene.style == s.style for s, v in zip(scenes, verdicts, strict=True)),
        "background_right": sum(v.scene.background == s.background for s, v in zip(scenes, verdicts, strict=True)),
        "places_right": sum(_places(v.scene) == _places(s) for s, v in zip(scenes, verdicts, strict=True)),
        "whole_scene_right": sum(v.sure and v.scene == s for s, v in zip(scenes, verdicts, strict=True)),
        "judge_rendered": _share(scenes, rendered),
        "judge_vae": _share(scenes, decoded),
        "vae_psnr_db": round(_psnr(rendered, decoded), 2),
        "misses": [
            {"asked": caption(scene), "seen": caption(verdict.scene), "explained": round(verdict.explained, 2)}
            for scene, verdict, right in zip(scenes, verdicts, good, strict=True)
            if not right
        ],
    }
    write_atomically(folder / ADHERENCE, (json.dumps(result, indent=2) + "\n").encode())
    chosen = [*range(min(30, half)), *range(half, min(half + 30, len(scenes)))]
    _write_sheet(folder / "adherence.jpg", [_framed(pictures[i], good[i]) for i in chosen])
    write_cards(settings.checkpoints)
    return result


def measure_canny(settings: Settings, report: Report) -> dict[str, Any]:
    """Make a picture for each held-out scene from its prompt and its edges, and compare the edges.

    Writes canny.json and canny.jpg (control above result) beside the ControlNet, and its card anew.
    """
    half = settings.prompts // 2
    scenes = [*held_out_scenes(half, objects=1), *held_out_scenes(settings.prompts - half, objects=2)]
    rng = random.Random(settings.seed)
    edges = [canny(render(scene, rng)) for scene in scenes]
    folder = settings.checkpoints / CONTROL
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        settings.checkpoints / TEXT, controlnet=ControlNetModel.from_pretrained(folder)
    ).to(settings.device)
    pipeline.set_progress_bar_config(disable=True)

    def make(start: int, prompts: list[str]) -> list[Picture]:
        control = [Image.fromarray(edge).convert("RGB") for edge in edges[start : start + len(prompts)]]
        return _as_pictures(
            pipeline(
                prompts,
                image=control,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=[torch.Generator().manual_seed(settings.seed + start + i) for i in range(len(prompts))],
                output_type="np",
            ).images
        )

    pictures = _in_batches(scenes, make, report)
    pairs = [(edge, canny(picture)) for edge, picture in zip(edges, pictures, strict=True)]
    scores = sorted(edge_f1(asked, made, _TOLERANCE) for asked, made in pairs)
    result = {
        "weights": weights_digest(settings.checkpoints / TEXT, folder),
        "prompts": len(scenes),
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "tolerance": _TOLERANCE,
        "f1": round(float(np.mean(scores)), 4),
        "f1_lowest_tenth": round(scores[len(scores) // 10], 4),
        "f1_exact": round(float(np.mean([edge_f1(asked, made, 0) for asked, made in pairs])), 4),
        "holds": sum(holds(scene, judge(picture)) for scene, picture in zip(scenes, pictures, strict=True)),
    }
    write_atomically(folder / CANNY, (json.dumps(result, indent=2) + "\n").encode())
    tiles = [np.concatenate([np.dstack([edge] * 3), picture]) for edge, picture in zip(edges, pictures, strict=True)]
    _write_sheet(folder / "canny.jpg", tiles[:: max(1, len(tiles) // 30)][:30])
    write_cards(settings.checkpoints)
    return result


def weights_digest(*folders: Path) -> str:
    """A name for the weights of some checkpoints, by which a measurement tells whose it is."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
    return sha256("".join(sha256_file(file) for file in files).encode())


def load_pipeline(folder: Path, family: str) -> Any:
    """diffusers' pipeline of a checkpoint, for pictures of 128 x 128."""
    if family == "hidream":
        pipeline = HiDreamImagePipeline.from_pretrained(folder)
        pipeline.default_sample_size = SIDE // pipeline.vae_scale_factor  # it scales every picture to this area
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _places(scene: Scene) -> list[str]:
    return [item.place for item in scene.objects]


def edge_f1(asked: Picture, made: Picture, tolerance: int) -> float:
    """F1 of two edge pictures (H, W) uint8, 0 or 255: an edge counts that the other has within `tolerance` pixels."""
    kernel = np.ones((2 * tolerance + 1, 2 * tolerance + 1), np.uint8)
    wide_asked, wide_made = (np.asarray(cv2.dilate(edge, kernel)) > 0 for edge in (asked, made))
    precision = float(wide_asked[made > 0].mean()) if made.any() else 0.0
    recall = float(wide_made[asked > 0].mean()) if asked.any() else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _in_batches(
    scenes: Sequence[Scene], make: Callable[[int, list[str]], list[Picture]], report: Report
) -> list[Picture]:
    pictures: list[Picture] = []
    for start in range(0, len(scenes), _BATCH):
        pictures += make(start, [caption(scene) for scene in scenes[start : start + _BATCH]])
        report(f"{len(pictures)} of {len(scenes)} pictures")
    return pictures


def _as_pictures(images: NDArray[np.float32]) -> list[Picture]:
    """(B, H, W, 3) float 0 to 1 -> uint8 pictures."""
    return [(image * 255).round().astype(np.uint8) for image in images]


@torch.no_grad()
def _through_vae(vae: AutoencoderKL, pictures: list[Picture]) -> list[Picture]:
    """What is left of pictures that the VAE encodes and decodes."""
    made: list[Picture] = []
    for start in range(0, len(pictures), _BATCH):
        batch = torch.from_numpy(np.stack(pictures[start : start + _BATCH])).permute(0, 3, 1, 2)
        values = batch.to(vae.device).float() / 127.5 - 1
        decoded = vae.decode(vae.encode(values).latent_dist.mean).sample
        made += _as_pictures((decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
    return made


def _psnr(first: list[Picture], second: list[Picture]) -> float:
    """Mean PSNR in dB."""
    errors = [np.square(a.astype(np.float32) - b).mean() for a, b in zip(first, second, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))


def _share(scenes: Sequence[Scene], pictures: list[Picture]) -> float:
    return sum(holds(scene, judge(picture)) for scene, picture in zip(scenes, pictures, strict=True)) / len(scenes)


def _groups(scenes: Sequence[Scene], good: Sequence[bool]) -> dict[str, dict[str, int]]:
    """How many of each kind hold what was asked."""
    groups: dict[str, dict[str, int]] = {}
    for scene, right in zip(scenes, good, strict=True):
        count = "one_object" if len(scene.objects) == 1 else "two_objects"
        for name in (count, f"{count},_{scene.style}"):
            group = groups.setdefault(name, {"prompts": 0, "holds": 0})
            group["prompts"] += 1
            group["holds"] += right
    return dict(sorted(groups.items()))


def _framed(picture: Picture, right: bool) -> Picture:
    framed = np.empty((SIDE + 6, SIDE + 6, 3), np.uint8)
    framed[:] = _FRAMES[right]
    framed[3:-3, 3:-3] = picture
    return framed


def _write_sheet(path: Path, tiles: list[Picture]) -> None:
    """Tiles of one size, ten a row; the last row is filled with white."""
    blank = np.full_like(tiles[0], 255)
    tiles = tiles + [blank] * (-len(tiles) % _SHEET_COLUMNS)
    rows = [np.concatenate(tiles[i : i + _SHEET_COLUMNS], axis=1) for i in range(0, len(tiles), _SHEET_COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(path, quality=85)
