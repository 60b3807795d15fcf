"""Contract B: the lines of the old service's document, run as they stand, on another port."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from proxy.surfaces.submit import _reduction
from tests.service import RunningService

SUBMIT = """
curl -X POST "http://localhost:8088/submit" \\
     -H "Content-Type: application/json" \\
     -d '{
       "prompt": "A beautiful landscape with mountains and lakes at sunset",
       "resolution": "1024x1024",
       "num_inference_steps": 50,
       "num_images_per_prompt": 1
     }'
"""
BATCH = """
curl -X POST "http://localhost:8088/batch_submit" \\
     -H "Content-Type: application/json" \\
     -d '{
       "requests": [
         {
           "prompt": "A beautiful sunset",
           "resolution": "1024x1024",
           "num_inference_steps": 50,
           "num_images_per_prompt": 1
         },
         {
           "prompt": "A mountain landscape",
           "resolution": "1024x1024",
           "num_inference_steps": 50,
           "num_images_per_prompt": 1
         }
       ]
     }'
"""
STATUS = 'curl "http://localhost:8088/status/{task_id}"'
DOWNLOAD = 'curl "http://localhost:8088/download/{task_id}?image_index=0" -o result.png'
HEALTH = 'curl "http://localhost:8088/health"'
ONE = """
time curl -X POST "http://localhost:8088/submit" \\
     -H "Content-Type: application/json" \\
     -d '{"prompt": "test", "num_inference_steps": 10}'
"""
FIVE = """
for i in {1..5}; do
  curl -X POST "http://localhost:8088/submit" \\
       -H "Content-Type: application/json" \\
       -d '{"prompt": "test '$i'", "num_inference_steps": 10}' &
done
wait
"""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def shell(service: RunningService, lines: str, folder: Path, task_id: str = "") -> str:
    script = lines.replace("localhost:8088", service.url.removeprefix("http://")).replace("{task_id}", task_id)
    result = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout


def accepted(answer: dict[str, Any]) -> str:
    assert answer.keys() == {"task_id", "status", "estimated_time", "message"}
    assert (answer["status"], answer["message"]) == ("queued", "Task submitted successfully")
    assert isinstance(answer["estimated_time"], int)
    assert answer["estimated_time"] > 0
    return str(uuid.UUID(answer["task_id"]))


def completed(service: RunningService, folder: Path, id: str) -> dict[str, Any]:
    deadline, progress = time.monotonic() + 120, 0
    while True:
        status = dict(json.loads(shell(service, STATUS, folder, id)))
        assert status["progress"] >= progress
        progress = status["progress"]
        if status["status"] == "completed":
            return status
        assert status["status"] in ("queued", "processing")
        assert (status["result_urls"], status["completed_at"]) == ([], None)
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_documented_lines(service: RunningService, http: httpx.Client, tmp_path: Path) -> None:
    id = accepted(json.loads(shell(service, SUBMIT, tmp_path)))
    batch = json.loads(shell(service, BATCH, tmp_path))
    assert [accepted(task) for task in batch["tasks"]] == batch["task_ids"]
    assert len(set(batch["task_ids"]) | {id}) == 3
    status = completed(service, tmp_path, id)
    expected = {"task_id", "status", "progress", "result_urls", "processing_time", "created_at", "completed_at"}
    assert status.keys() == expected
    assert (status["task_id"], status["progress"]) == (id, 100)
    assert status["processing_time"] > 0
    assert datetime.fromisoformat(status["created_at"]) < datetime.fromisoformat(status["completed_at"])
    shell(service, DOWNLOAD, tmp_path, id)
    downloaded = (tmp_path / "result.png").read_bytes()
    with Image.open(io.BytesIO(downloaded)) as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))
    (url,) = status["result_urls"]
    assert url.startswith(f"{service.url}/images/")
    assert http.get(url).content == downloaded
    for other in batch["task_ids"]:
        completed(service, tmp_path, other)
    health = json.loads(shell(service, HEALTH, tmp_path))
    assert health["status"] == "healthy"
    assert health["pipeline_ready"] is True
    assert {type(health[name]) for name in ("queue_length", "active_tasks", "total_tasks")} == {int}
    assert health["total_tasks"] >= 3


def test_the_documented_tests(service: RunningService, tmp_path: Path) -> None:
    ids = [accepted(json.loads(shell(service, ONE, tmp_path)))]
    texts = shell(service, FIVE, tmp_path).replace("}{", "}\n{").splitlines()
    ids += [accepted(json.loads(text)) for text in texts]
    assert len(set(ids)) == 6
    for id in ids:
        completed(service, tmp_path, id)


def test_service_information(http: httpx.Client) -> None:
    body = http.get("/").json()
    assert (body["service"], body["status"]) == ("Darkroom", "running")
    assert {"/submit", "/status/{task_id}", "/health"} <= set(body["endpoints"].values())


def test_a_browser_gets_a_page(http: httpx.Client) -> None:
    page = http.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<title>Darkroom</title>" in page.text
    for path in re.findall(r'<a href="([^"]+)"', page.text):
        assert http.get(f"/{path}").status_code == 200, path


@pytest.mark.parametrize(("resolution", "size"), [("768x1024", (768, 1024)), ("512x512", (512, 512))])
def test_resolutions(service: RunningService, http: httpx.Client, tmp_path: Path, resolution: str, size: Any) -> None:
    fields = {"prompt": "a cat", "resolution": resolution, "num_inference_steps": 2, "num_images_per_prompt": 2}
    id = http.post("/submit", json={**fields, "seed": 3}).json()["task_id"]
    completed(service, tmp_path, id)
    task = http.get(f"/tasks/{id}").json()
    assert [result["details"]["seed"] for result in task["results"]] == [3, 4]
    for index in range(2):
        data = http.get(f"/download/{id}", params={"image_index": index}).content
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == size


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a cat", "resolution": "1000x1000"}, "resolution"),
        ({"prompt": "a cat", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "a cat", "num_inference_steps": 100_000}, "num_inference_steps"),
        ({"prompt": "a cat", "steps": 100_000}, "steps"),
        ({"prompt": "a cat", "num_images_per_prompt": "two"}, "num_images_per_prompt"),
        ({"prompt": "a cat", "num_images_per_prompt": 100}, "num_images_per_prompt"),
        ({"prompt": "a cat", "scheduler": 5}, "scheduler"),
        ({"prompt": "a cat", "width": 512}, "width"),
        ({"prompt": "a cat", "priority": "high"}, "priority"),
    ],
)
def test_refusals(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    total = http.get("/health").json()["total_tasks"]
    answer = http.post("/submit", json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text
    batch = http.post("/batch_submit", json={"requests": [{"prompt": "a cat", "num_inference_steps": 1}, fields]})
    assert batch.status_code == 422
    assert batch.json()["detail"].startswith("requests[1]: "), batch.text
    assert http.get("/health").json()["total_tasks"] == total, "all or none"


def test_a_batch_for_which_there_is_never_room_is_refused_for_good(http: httpx.Client) -> None:
    one = {"prompt": "a cat", "num_inference_steps": 1, "resolution": "512x512"}
    answer = http.post("/batch_submit", json={"requests": [one] * 900})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "requests"), answer.text
    assert "900" in answer.json()["detail"]


def test_the_operations_own_names_do(service: RunningService, http: httpx.Client, tmp_path: Path) -> None:
    answer = http.post("/submit", json={"prompt": "a cat", "resolution": "512x512", "steps": 2, "num_images": 2})
    assert answer.status_code == 200, answer.text
    assert len(completed(service, tmp_path, answer.json()["task_id"])["result_urls"]) == 2


def test_the_same_key_is_the_same_tasks(http: httpx.Client) -> None:
    one = {"prompt": "a cat", "num_inference_steps": 1, "resolution": "512x512"}
    for path, body in (("/submit", one), ("/batch_submit", {"requests": [one, one]})):
        headers = {"idempotency-key": f"key-of-{path}"}
        first, again = (http.post(path, json=body, headers=headers) for _ in range(2))
        first_id, again_id = ([body.get("task_id"), body.get("task_ids")] for body in (first.json(), again.json()))
        assert first_id == again_id
        assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
        other = http.post(path, json=one | {"prompt": "a dog", "requests": [one]}, headers=headers)
        assert (other.status_code, other.json()["error"]["param"]) == (409, "Idempotency-Key"), other.text


@pytest.mark.parametrize(
    ("size", "side", "factor"),
    [
        ((1024, 1024), 128, 8),
        ((1024, 768), 128, 8),
        ((512, 512), 128, 4),
        ((1024, 1024), 512, 2),
        ((768, 1024), 512, 2),
        ((512, 512), 512, 1),
        ((1024, 1024), 1024, 1),
        ((1024, 1024), 64, 8),
    ],
)
def test_pictures_are_made_at_a_size_that_the_checkpoint_knows(size: tuple[int, int], side: int, factor: int) -> None:
    assert _reduction(*size, side, 8) == factor
