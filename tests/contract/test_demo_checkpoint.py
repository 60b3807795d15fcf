"""The service with the demo checkpoints: images hold what was asked, and are those of diffusers."""

from __future__ import annotations

import base64
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.schedulers import make_scheduler
from tests.pictures import encoded, pixels
from tests.service import ROOT
from training.chunks import canny
from training.demo.sd15.canny import edge_f1
from training.judge import holds, judge
from training.render import render
from training.world import Scene, caption, held_out_scenes

TEXT, CONTROL = ROOT / "checkpoints" / "demo-sd15", ROOT / "checkpoints" / "demo-sd15-canny"
BASE = ROOT / "checkpoints" / "demo-sdxl-base"
PROMPTS = 24
SLACK = 0.2
"""How far 12 pictures may fall short of the share that 100 reached: 10 of 12 have to hold where 98 or 99 did."""
BASE_ALONE = {"model": "sdxl", "refiner_start": 1}
"""As the checkpoint was measured."""


def _pictures(http: httpx.Client, **fields: Any) -> list[NDArray[np.uint8]]:
    answer = http.post("/generate", json=fields)
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(image.partition(",")[2])) for image in answer.json()["images"]]


def _draw(http: httpx.Client, scenes: list[Scene], **fields: Any) -> list[NDArray[np.uint8]]:
    """One picture per scene; several requests at once."""

    def one(number: int) -> NDArray[np.uint8]:
        return _pictures(http, prompt=caption(scenes[number]), seed=number, steps=25, **fields)[0]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(len(scenes))))


@pytest.mark.parametrize(("folder", "fields"), [(TEXT, {}), (BASE, BASE_ALONE)], ids=["sd15", "sdxl"])
def test_pictures_hold_what_was_asked(http: httpx.Client, folder: Path, fields: dict[str, Any]) -> None:
    """Compared with what 200 pictures reached, at the guidance scale that the checkpoint asks for: none is named."""
    measured = json.loads((folder / "adherence.json").read_text())
    scenes = [*held_out_scenes(PROMPTS // 2, objects=1), *held_out_scenes(PROMPTS // 2, objects=2)]
    verdicts = [judge(picture) for picture in _draw(http, scenes, **fields)]
    good = [holds(scene, verdict) for scene, verdict in zip(scenes, verdicts, strict=True)]
    backgrounds = sum(v.scene.background == s.background for s, v in zip(scenes, verdicts, strict=True))
    for group, found in (("one_object", good[: PROMPTS // 2]), ("two_objects", good[PROMPTS // 2 :])):
        reached = measured["groups"][group]
        assert np.mean(found) >= reached["holds"] / reached["prompts"] - SLACK, group
    assert backgrounds / PROMPTS >= measured["background_right"] / measured["prompts"] - SLACK


def test_pictures_follow_the_edges(http: httpx.Client) -> None:
    scenes = [*held_out_scenes(3, objects=1), *held_out_scenes(3, objects=2)]
    measured = json.loads((CONTROL / "canny.json").read_text())
    rng = random.Random(1)
    scores = []
    for scene in scenes:
        asked = render(scene, rng)
        control = base64.b64encode(encoded(Image.fromarray(asked))).decode()
        (made,) = _pictures(http, prompt=caption(scene), steps=25, seed=3, control_image=control)
        scores.append(edge_f1(canny(asked), canny(made), 1))
    assert np.mean(scores) >= max(0.6, measured["f1"] - 0.1), scores


@pytest.mark.parametrize("scheduler", [None, "euler_a", "dpmpp_2m_karras"])
def test_served_pictures_are_those_of_diffusers(http: httpx.Client, scheduler: str | None) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(TEXT)
    _compare(http, pipeline, scheduler, {}, {})


def test_served_pictures_of_sdxl_are_those_of_diffusers(http: httpx.Client) -> None:
    _compare(http, StableDiffusionXLPipeline.from_pretrained(BASE, add_watermarker=False), None, BASE_ALONE, {})


def test_served_pictures_with_control_are_those_of_diffusers(http: httpx.Client) -> None:
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        TEXT, controlnet=ControlNetModel.from_pretrained(CONTROL)
    )
    asked = render(held_out_scenes(1, objects=2)[0], random.Random(5))
    control = base64.b64encode(encoded(Image.fromarray(asked))).decode()
    edges = Image.fromarray(canny(asked)).convert("RGB")
    _compare(http, pipeline, None, {"control_image": control}, {"image": edges})


def _compare(
    http: httpx.Client, pipeline: Any, scheduler: str | None, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Two pictures of one prompt, within 2 of 255 on every pixel."""
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = make_scheduler(scheduler, {**pipeline.scheduler.config})
    prompt, negative = "a photo of a cat on the left and a pizza on the right on a blue background", "a dog"
    expected = pipeline(
        prompt,
        negative_prompt=negative,
        num_images_per_prompt=2,
        num_inference_steps=10,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(40 + k) for k in range(2)],
        **theirs,
    ).images
    fields = {"prompt": prompt, "negative_prompt": negative, "num_images": 2, "steps": 10, "seed": 40}
    fields |= {"guidance_scale": 2.0, **ours}
    made = _pictures(http, **fields, **({} if scheduler is None else {"scheduler": scheduler}))
    for one, other in zip(made, expected, strict=True):
        assert np.abs(one.astype(int) - np.asarray(other).astype(int)).max() <= 2
