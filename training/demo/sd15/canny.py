"""How well images of demo-sd15-canny follow the edges that they are given."""

from __future__ import annotations

import json
import random
from typing import Any

import cv2
import numpy as np
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

from darkroom.files import write_atomically
from training.card import write_cards
from training.chunks import canny
from training.demo.sd15.card import CANNY, CONTROL
from training.judge import holds, judge
from training.measure import Measurement, Picture, as_pictures, in_batches, weights_digest, write_sheet
from training.render import render
from training.trainer import Report

_TOLERANCE = 1
"""How far an edge may be from the control's edge, in pixels."""


def measure_canny(settings: Measurement, report: Report) -> dict[str, Any]:
    """Make an image for each held-out scene from its prompt and its edges, and compare the edges.

    Writes canny.json and canny.jpg (control above result) beside the ControlNet, and updates its card.
    """
    scenes = settings.scenes()
    rng = random.Random(settings.seed)
    edges = [canny(render(scene, rng)) for scene in scenes]
    folder = settings.checkpoints / CONTROL
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        settings.folder, controlnet=ControlNetModel.from_pretrained(folder)
    ).to(settings.device)
    pipeline.set_progress_bar_config(disable=True)

    def make(start: int, prompts: list[str]) -> list[Picture]:
        control = [Image.fromarray(edge).convert("RGB") for edge in edges[start : start + len(prompts)]]
        return as_pictures(
            pipeline(
                prompts,
                image=control,
                num_inference_steps=settings.steps,
                guidance_scale=settings.scale,
                generator=settings.generators(start, len(prompts)),
                output_type="np",
            ).images
        )

    pictures = in_batches(scenes, make, report)
    pairs = [(edge, canny(picture)) for edge, picture in zip(edges, pictures, strict=True)]
    scores = sorted(edge_f1(asked, made, _TOLERANCE) for asked, made in pairs)
    result = {
        "weights": weights_digest(settings.folder, folder),
        "prompts": len(scenes),
        "steps": settings.steps,
        "guidance": settings.scale,
        "seed": settings.seed,
        "tolerance": _TOLERANCE,
        "f1": round(float(np.mean(scores)), 4),
        "f1_lowest_tenth": round(scores[len(scores) // 10], 4),
        "f1_exact": round(float(np.mean([edge_f1(asked, made, 0) for asked, made in pairs])), 4),
        "holds": sum(holds(scene, judge(picture)) for scene, picture in zip(scenes, pictures, strict=True)),
    }
    write_atomically(folder / CANNY, (json.dumps(result, indent=2) + "\n").encode())
    tiles = [np.concatenate([np.dstack([edge] * 3), picture]) for edge, picture in zip(edges, pictures, strict=True)]
    write_sheet(folder / "canny.jpg", tiles[:: max(1, len(tiles) // 30)][:30])
    write_cards(settings.checkpoints)
    return result


def edge_f1(asked: Picture, made: Picture, tolerance: int) -> float:
    """F1 of two edge images (H, W) uint8, 0 or 255: an edge counts that the other has within `tolerance` pixels."""
    kernel = np.ones((2 * tolerance + 1, 2 * tolerance + 1), np.uint8)
    wide_asked, wide_made = (np.asarray(cv2.dilate(edge, kernel)) > 0 for edge in (asked, made))
    precision = float(wide_asked[made > 0].mean()) if made.any() else 0.0
    recall = float(wide_made[asked > 0].mean()) if asked.any() else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
