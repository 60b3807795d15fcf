"""A family in one folder is exported, configured and served, and nothing else is touched.

The folder lies in a temporary place, which FAMILIES_PATH names: `pipelines/toy` and `exporters/toy`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.service import ROOT, RunningService, running_service

HERE = Path(__file__).parent
GREEN, BLUE = (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for part in ("pipelines", "exporters"):
        shutil.copytree(HERE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def repository(families: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported by the family's own command, which `python -m exporters export` finds."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    (checkpoint / "model_index.json").write_text('{"_class_name": "ToyPipeline"}')
    said = program(families, "-m", "exporters", "export", str(checkpoint), "--output", str(folder))
    assert "is a Toy checkpoint (ToyPipeline)" in said
    return folder


@pytest.fixture(scope="module")
def toy(families: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, model_repository=repository, families_path=families, toy_max_steps=7) as running:
        yield running


def program(families: Path, *arguments: str, check: bool = True) -> str:
    """What a Python program says that finds the family; it ends well."""
    environment = {**os.environ, "FAMILIES_PATH": str(families)}
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert not check or run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def colour_of(data: bytes) -> Any:
    image = Image.open(io.BytesIO(data))
    assert image.size == (64, 64)
    (one,) = image.convert("RGB").getcolors(1) or ()
    return one[1]


def colour_of_url(url: str) -> Any:
    return colour_of(base64.b64decode(url.partition(",")[2]))


def test_toy_family_has_configs(families: Path, repository: Path) -> None:
    assert (repository / "toy" / "config.pbtxt").exists()
    said = program(families, "-m", "exporters", "config", "--check", "--model", "toy", "--output", str(repository))
    assert "as rendered" in said


def test_toy_family_is_served_over_rest(toy: RunningService) -> None:
    body = {"prompt": "a wall", "model": "toy", "colour": "green", "num_images": 2, "seed": 5}
    answer = httpx.post(f"{toy.url}/generate", json=body, timeout=60).raise_for_status()
    content = answer.json()
    assert [colour_of_url(image) for image in content["images"]] == [GREEN, GREEN]
    assert content["seeds"] == [5, 6]
    assert "x-ignored-fields" not in answer.headers
    refused = httpx.post(f"{toy.url}/generate", json={**body, "steps": 8}, timeout=60)
    assert (refused.status_code, refused.json()["detail"]) == (422, "steps must be from 1 to 7; got 8.")


def test_toy_family_is_the_default_where_it_is_alone(toy: RunningService) -> None:
    answer = httpx.post(f"{toy.url}/generate", json={"prompt": "a wall"}, headers={"accept": "image/png"}, timeout=60)
    assert colour_of(answer.raise_for_status().content) == (255, 0, 0)
    other = httpx.post(f"{toy.url}/generate", json={"prompt": "a wall", "model": "sd15"}, timeout=60)
    assert other.status_code == 404
    unknown = httpx.post(f"{toy.url}/generate", json={"prompt": "a wall", "model": "nope"}, timeout=60)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (422, "model")


def test_toy_family_makes_tasks(toy: RunningService) -> None:
    body = {"operation": "generate", "model": "toy", "prompt": "a wall", "colour": "blue", "steps": 2}
    with httpx.Client(base_url=toy.url, timeout=60) as http:
        task = http.post("/tasks", json=body).raise_for_status().json()
        with http.stream("GET", f"/tasks/{task['task_id']}/events") as events:
            assert any("event: done" in line for line in events.iter_lines())
        done = http.get(f"/tasks/{task['task_id']}").json()
        assert (done["status"], done["total_steps"]) == ("completed", 2)
        assert colour_of(http.get(done["result_urls"][0]).content) == BLUE


def test_toy_family_is_in_the_list_of_models(toy: RunningService) -> None:
    models = {one["name"]: one for one in httpx.get(f"{toy.url}/models", timeout=60).json()["models"]}
    mine = models["toy"]
    assert (mine["installed"], mine["ready"], mine["default_for"]) == (True, True, ["generate"])
    assert mine["fields"]["colour"]["enum"][:3] == ["red", "green", "blue"]
    assert mine["fields"]["steps"]["maximum"] == mine["limits"]["max_steps"] == 7
    assert not models["sd15"]["installed"]
    assert "export" in models["sd15"]["hint"]


def test_toy_family_is_in_openapi(toy: RunningService) -> None:
    document = httpx.get(f"{toy.url}/openapi.json", timeout=60).json()
    properties = document["components"]["schemas"]["ToyTask"]["properties"]
    assert properties["colour"]["description"] == "The colour of the images."
    assert properties["steps"]["maximum"] == 7


def test_toy_family_is_used_from_the_command_line(toy: RunningService, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "darkroom_client", "generate", "a wall", "--model", "toy", "--seed", "3"]
    subprocess.run([*command, "--url", toy.url, "-o", str(tmp_path)], check=True, capture_output=True)
    (made,) = tmp_path.glob("*.png")
    assert colour_of(made.read_bytes()) == (255, 0, 0)


def test_toy_family_has_its_health(toy: RunningService) -> None:
    answer = httpx.get(f"{toy.url}/health", timeout=60).json()
    assert answer["families"]["toy"]["ready"]


def test_toy_family_is_served_in_one_process(families: Path, repository: Path) -> None:
    code = """
import asyncio, json, sys
from pathlib import Path
from darkroom.serving.in_process import InProcess

async def main():
    async with InProcess(Path(sys.argv[1])) as models:
        found = [one async for one in models.stream("toy", {"prompt": "a wall", "colour": "green"})]
    sys.stdout.write(json.dumps([len(found), found[-1]["image"].tobytes().hex()]))

asyncio.run(main())
"""
    responses, image = json.loads(program(families, "-c", code, str(repository)))
    assert responses == 4, "a response for each of three steps, and the image"
    assert colour_of(bytes.fromhex(image)) == GREEN
