"""HiDream as a task, with a tiny checkpoint: fields, refusals, cancelling, and the contract of the old service."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.contract.tasks import wait_ended
from tests.service import RunningService, link_models, running_service

FIELDS = {"operation": "hidream", "prompt": "a cat on a blue background", "steps": 2, "seed": 7}
UPSCALER = ("upscale", "realesrgan_animevideov3_x4")


@pytest.fixture(scope="module")
def hidream(hidream_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of HiDream and an upscaler alone."""
    folder = tmp_path_factory.mktemp("hidream-service")
    models = [model.name for model in hidream_repository.iterdir()]
    repository = link_models(folder / "repository", *models, source=hidream_repository)
    link_models(repository, *UPSCALER)
    settings = {"canary_interval": 3600, "hidream_max_images": 2, "submit_enlarge": "animevideov3"}
    with running_service(folder, model_repository=repository, **settings) as running:
        yield running


@pytest.fixture
def http(hidream: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hidream.url, timeout=60) as client:
        yield client


def begun(http: httpx.Client, **fields: Any) -> str:
    answer = http.post("/tasks", json={**FIELDS, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def test_pictures_and_their_details(http: httpx.Client) -> None:
    task = wait_ended(http, begun(http, num_images=2))
    assert (task["status"], task["step"], task["total_steps"]) == ("completed", 2, 2), task["error"]
    details = [result["details"] for result in task["results"]]
    assert [one["seed"] for one in details] == [7, 8]
    assert {one["guidance_scale"] for one in details} == {5.0}, "the checkpoint's, for none was named"
    again = wait_ended(http, begun(http, num_inference_steps=2, steps=None))
    data = [http.get(one["result_urls"][0]).raise_for_status().content for one in (task, again)]
    sizes = [Image.open(io.BytesIO(one)).size for one in data]
    assert sizes == [(64, 64)] * 2


def test_submit_makes_what_this_installation_can(http: httpx.Client) -> None:
    assert http.get("/").json()["operation"] == "hidream"
    fields = {"prompt": "a cat", "resolution": "512x512", "num_inference_steps": 3, "num_images_per_prompt": 1}
    accepted = http.post("/submit", json=fields).raise_for_status().json()
    task = wait_ended(http, accepted["task_id"])
    assert (task["operation"], task["status"]) == ("hidream", "completed"), task["error"]
    status = http.get(f"/status/{accepted['task_id']}").json()
    assert (status["status"], status["progress"]) == ("completed", 100)
    picture = http.get(f"/download/{accepted['task_id']}", params={"image_index": 0})
    assert Image.open(io.BytesIO(picture.content)).size == (512, 512)
    other = http.post("/tasks", json={**FIELDS, "operation": "generate", "model": "sd15"})
    assert other.status_code == 404, "a model that is not installed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"width": 72}, "width"),
        ({"num_images": 3}, "num_images"),
        ({"scheduler": "ddim"}, "scheduler"),
        ({"max_sequence_length": 8}, "max_sequence_length"),
        ({"steps": "many"}, "steps"),
        ({"enlarge": 9}, "enlarge"),
        ({"reference_image": "AAAA"}, "reference_image"),
    ],
)
def test_refusals(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = http.post("/tasks", json={**FIELDS, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text


def test_a_cancelled_task_stops(hidream: RunningService, http: httpx.Client) -> None:
    id = begun(http, steps=150, width=256, height=256)
    deadline = time.monotonic() + 60
    while http.get(f"/tasks/{id}").json()["step"] < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert http.delete(f"/tasks/{id}").status_code == 200
    before = hidream.counter("nv_inference_exec_count", "hidream_transformer")
    time.sleep(2)
    after = hidream.counter("nv_inference_exec_count", "hidream_transformer")
    assert after - before <= 1, "the step at hand, and no other"
    task = wait_ended(http, id)
    assert task["status"] == "cancelled"
    assert 0 < task["step"] < 150
