"""Several checkpoints of one family side by side: `model` chooses, `GET /models` lists, each has its own networks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from darkroom.registry import families
from exporters.config import Placement, write_configs
from tests.service import ROOT, RunningService, link_models, running_service

SD15 = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15_vae_encoder")
BODY = {"prompt": "a cat", "steps": 3, "width": 64, "height": 64, "seed": 5}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The demo checkpoint, and once more as "photos" with another guidance scale."""
    folder = tmp_path_factory.mktemp("models")
    repository = link_models(folder / "repository", *SD15)
    _add_photos(repository)
    with running_service(folder, model_repository=repository, canary_interval=3600) as running:
        yield running


def _add_photos(repository: Path) -> None:
    specs = [spec for spec in families()["sd15"].specs if spec.name in SD15]
    write_configs(repository, [spec.labelled("photos") for spec in specs], Placement())
    for spec in specs:
        version = repository / spec.labelled("photos").name / "1"
        version.mkdir(exist_ok=True)
        for path in (ROOT / "model_repository" / spec.name / "1").iterdir():
            if path.is_file() and path.name not in ("model.py", "pipeline.json"):
                (version / path.name).symlink_to(path)
    facts = json.loads((ROOT / "model_repository" / "sd15" / "1" / "pipeline.json").read_text())
    text = json.dumps({**facts, "name": "Holiday Photos", "guidance_scale": 1.0})
    (repository / "sd15.photos" / "1" / "pipeline.json").write_text(text)


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


def generate(http: httpx.Client, **more: Any) -> dict[str, Any]:
    content: dict[str, Any] = http.post("/generate", json={**BODY, **more}).raise_for_status().json()
    return content


@pytest.mark.parametrize("name", ["sd15.photos", "photos", "Holiday Photos", " PHOTOS "])
def test_model_chooses_a_checkpoint_by_any_of_its_names(http: httpx.Client, name: str) -> None:
    made, usual = generate(http, model=name), generate(http)
    assert (made["parameters"]["model"], usual["parameters"]["model"]) == ("Holiday Photos", "demo-sd15")
    assert made["parameters"]["guidance_scale"] == 1.0
    assert usual["parameters"]["guidance_scale"] > 1.0
    assert made["images"] != usual["images"]


def test_models_show_what_guidance_each_checkpoint_wants(http: httpx.Client) -> None:
    found = {one["name"]: one for one in http.get("/models").raise_for_status().json()["models"]}
    assert found["sd15.photos"]["fields"]["guidance_scale"]["default"] == 1.0
    usual = generate(http)["parameters"]["guidance_scale"]
    assert found["sd15"]["fields"]["guidance_scale"]["default"] == usual > 1.0


def test_model_runs_on_its_own_networks(service: RunningService, http: httpx.Client) -> None:
    before = {name: service.counter("nv_inference_exec_count", name) for name in ("sd15_unet", "sd15_unet.photos")}
    generate(http, model="photos")
    after = {name: service.counter("nv_inference_exec_count", name) for name in before}
    assert after["sd15_unet.photos"] > before["sd15_unet.photos"]
    assert after["sd15_unet"] == before["sd15_unet"]


def test_model_of_a_task(http: httpx.Client) -> None:
    task = http.post("/tasks", json={"operation": "generate", "model": "photos", **BODY}).raise_for_status().json()
    with http.stream("GET", f"/tasks/{task['task_id']}/events") as events:
        assert any("event: done" in line for line in events.iter_lines())
    done = http.get(f"/tasks/{task['task_id']}").json()
    assert done["status"] == "completed", done["error"]
    assert done["results"][0]["details"]["model"] == "Holiday Photos"
    for shown in (task, done):
        assert (shown["operation"], shown["model"]) == ("generate", "sd15.photos")


def test_task_shows_the_operation_name_that_was_sent(http: httpx.Client) -> None:
    def shown(**fields: str) -> tuple[str, str]:
        task = http.post("/tasks", json={**BODY, **fields}).raise_for_status().json()
        http.delete(f"/tasks/{task['task_id']}")
        return task["operation"], task["model"]

    assert shown(operation="generate") == ("generate", "sd15")
    assert shown(operation="sd15.photos") == ("sd15.photos", "sd15.photos")


def test_models_lists_every_checkpoint(http: httpx.Client) -> None:
    models = {one["name"]: one for one in http.get("/models").json()["models"]}
    assert [models[name]["default_for"] for name in ("sd15", "sd15.photos")] == [["generate"], []]
    assert models["sd15.photos"]["checkpoint"]["name"] == "Holiday Photos"
    assert models["sd15.photos"]["ready"]
    assert http.get("/models/sd15.photos").json() == models["sd15.photos"]
    assert http.get("/models/nope").status_code == 404
    assert not models["hidream"]["installed"]


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("nope", 422, "model must be one of sd15, sd15.photos; got 'nope'."),
        (7, 422, "model must be one of"),
        ("upscale", 422, "is for upscale, and not for generate"),
        ("hidream", 404, "no text to image model hidream"),
        ("sd15.other", 404, "no text to image model sd15.other"),
    ],
)
def test_model_that_is_not_there_is_refused(http: httpx.Client, model: Any, status: int, words: str) -> None:
    for path, body in (("/generate", BODY), ("/tasks", {"operation": "generate", **BODY})):
        answer = http.post(path, json={**body, "model": model})
        assert answer.status_code == status, answer.text
        assert words in answer.json()["detail"]
        assert answer.json()["error"]["param"] == "model"


def test_model_names_in_openapi_are_those_that_are_there(http: httpx.Client) -> None:
    content = http.get("/openapi.json").json()["paths"]["/generate"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    assert schema["properties"]["model"]["enum"] == ["sd15", "sd15.photos", None]
