"""HiDream with the checkpoint that comes along: served, it draws what it is asked, as diffusers does."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from darkroom.pipelines.hidream import networks
from tests.service import ROOT, RunningService, link_models, running_service
from training.family import families
from training.judge import holds, judge
from training.measure import load_pipeline
from training.world import caption, held_out_scenes

CHECKPOINT = ROOT / "checkpoints" / "demo-hidream"
PROMPTS = 16
SLACK = 0.25
"""How far 16 pictures may fall short of the share that 200 reached: two standard deviations and more."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("demo-hidream")
    repository = link_models(folder / "repository", *(spec.name for spec in networks.specs()))
    with running_service(folder, model_repository=repository, canary_interval=3600) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


def _drawn(http: httpx.Client, requests: list[dict[str, Any]]) -> list[NDArray[np.uint8]]:
    """The picture of each task; all are submitted at once."""
    ids = [http.post("/tasks", json={"operation": "hidream", **one}).json()["task_id"] for one in requests]
    deadline = time.monotonic() + 300
    pictures = []
    for id in ids:
        while (task := http.get(f"/tasks/{id}").json())["status"] in ("queued", "processing"):
            assert time.monotonic() < deadline, task
            time.sleep(0.1)
        assert task["status"] == "completed", task["error"]
        with Image.open(io.BytesIO(http.get(f"/download/{id}").raise_for_status().content)) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    return pictures


def test_pictures_hold_what_was_asked(http: httpx.Client) -> None:
    measured = json.loads((CHECKPOINT / "adherence.json").read_text())
    scenes = [*held_out_scenes(PROMPTS // 2, objects=1), *held_out_scenes(PROMPTS // 2, objects=2)]
    common = {"steps": measured["steps"], "guidance_scale": measured["guidance"], "width": 128, "height": 128}
    asked = [{"prompt": caption(scene), "seed": number, **common} for number, scene in enumerate(scenes)]
    good = [holds(scene, judge(picture)) for scene, picture in zip(scenes, _drawn(http, asked), strict=True)]
    share = sum(measured["groups"][group]["holds"] for group in ("one_object", "two_objects")) / measured["prompts"]
    assert sum(good) / PROMPTS >= share - SLACK


def test_a_served_picture_is_that_of_diffusers(http: httpx.Client) -> None:
    fields = {"prompt": "a photo of a cat on a blue background", "steps": 8, "guidance_scale": 2.0}
    (made,) = _drawn(http, [{**fields, "seed": 3, "width": 128, "height": 128}])
    made_by_diffusers = load_pipeline(families()["hidream"], CHECKPOINT)(
        fields["prompt"],
        width=128,
        height=128,
        num_inference_steps=fields["steps"],
        guidance_scale=fields["guidance_scale"],
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    wanted = (made_by_diffusers * 255).round()
    assert np.abs(made.astype(int) - wanted).max() <= 2


def test_the_checkpoint_is_small() -> None:
    files = [file for file in Path(CHECKPOINT).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20_000_000
