"""Durable tasks over REST: what is accepted, how it is followed, what comes of it, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import sqlite3
import statistics
import time
from contextlib import closing
from datetime import datetime
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.contract.tasks import QUICK, finished, follow, submit
from tests.pictures import encoded, photo
from tests.service import RunningService

LONG = {**QUICK, "steps": 150, "width": 256, "height": 256}
NOBODY = "12345678-1234-1234-1234-123456789012"


def picture(http: httpx.Client, url: str) -> Image.Image:
    answer = http.get(url).raise_for_status()
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    return image


def test_task_from_acceptance_to_images(http: httpx.Client) -> None:
    answer = http.post("/tasks", json={**QUICK, "num_images": 2})
    task = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/tasks/{task['task_id']}"
    assert (task["operation"], task["status"], task["progress"], task["priority"]) == (
        "generate",
        "queued",
        0,
        "normal",
    )
    assert task["estimated_time"] > 0
    done = finished(http, task["task_id"])
    assert (done["status"], done["progress"], done["attempts"], done["error"]) == ("completed", 100, 1, None)
    assert done["step"] == done["total_steps"] >= 2
    assert done["created_at"] <= done["started_at"] <= done["completed_at"]
    assert done["processing_time"] > 0
    assert [result["details"]["seed"] for result in done["results"]] == [7, 8]
    assert [picture(http, url).size for url in done["result_urls"]] == [(64, 64)] * 2
    assert http.get(f"/tasks/{task['task_id']}").json() == done


def test_task_image_is_that_of_the_direct_request(http: httpx.Client) -> None:
    fields = {name: value for name, value in QUICK.items() if name != "operation"}
    direct = http.post("/generate", json=fields, headers={"accept": "image/png"}).content
    id = finished(http, submit(http)["task_id"])["task_id"]
    assert http.get(f"/download/{id}").content == direct


def test_task_starts_at_once_on_an_idle_service(http: httpx.Client) -> None:
    def waited() -> float:
        task = finished(http, submit(http)["task_id"])
        created, started = (datetime.fromisoformat(task[name]) for name in ("created_at", "started_at"))
        return (started - created).total_seconds()

    deadline = time.monotonic() + 30  # another process may have the processor, or the disk, for a while
    while (seconds := statistics.median(waited() for _ in range(5))) >= 0.25:
        assert time.monotonic() < deadline, seconds


def test_task_of_upscaling(http: httpx.Client) -> None:
    data = encoded(photo(0, 0, 24, 16))
    fields = {"operation": "upscale", "model": "animevideov3", "scale": "2"}
    answer = http.post("/tasks", data={**fields, "priority": "high"}, files={"file": ("a.png", data)})
    assert (answer.status_code, answer.json()["priority"]) == (202, "high")
    done = finished(http, answer.json()["task_id"])
    assert picture(http, done["result_urls"][0]).size == (48, 32)
    again = http.post("/tasks", json={**fields, "image": base64.b64encode(data).decode()})
    assert finished(http, again.json()["task_id"])["status"] == "completed"


def test_task_keeps_its_control_image(http: httpx.Client) -> None:
    control = base64.b64encode(encoded(photo(150, 30, 128, 128))).decode()
    done = finished(http, submit(http, control_image=control, keep_control_map=True)["task_id"])
    assert done["results"][0]["details"]["control_type"] == "canny"
    kept = done["results"][-1]
    assert (kept["filename"], kept["media_type"]) == ("control_map.png", "image/png")
    assert kept["details"] == {"control_map": True}
    with Image.open(io.BytesIO(http.get(kept["url"]).content)) as edges:
        assert edges.size == (64, 64)
        assert {0, 255} <= {value for _, value in edges.convert("L").getcolors()}


def test_task_images_may_be_enlarged(http: httpx.Client) -> None:
    done = finished(http, submit(http, enlarge=4, enlarge_model="animevideov3", num_images=2)["task_id"])
    assert [picture(http, url).size for url in done["result_urls"]] == [(256, 256)] * 2
    details = done["results"][1]["details"]
    assert (details["seed"], details["enlarge"], details["enlarge_model"]) == (8, 4, "animevideov3-x4")


def test_task_events(http: httpx.Client) -> None:
    events = follow(http, submit(http, steps=40, preview_every=10, width=128, height=128)["task_id"])
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "state"
    assert kinds[-1] == "done"
    steps = [content["step"] for kind, content in events if kind == "step"]
    assert len(steps) >= 3
    assert steps == sorted(steps)
    previews = [content["image"] for kind, content in events if kind == "preview"]
    assert previews
    assert Image.open(io.BytesIO(base64.b64decode(previews[-1].partition(",")[2]))).format == "PNG"
    states = [content["status"] for kind, content in events if kind == "state"]
    assert states[-1] == "completed"
    assert [kind for kind, _ in follow(http, events[-1][1]["task_id"])] == ["state", "done"]  # afterwards


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"operation": None}, 422, "operation", "generate, upscale"),
        ({"operation": "paint"}, 422, "operation", "'paint'"),
        ({"priority": "urgent"}, 422, "priority", "high, normal, low"),
        ({"prompt": None}, 422, "prompt", "missing"),
        ({"steps": 0}, 422, "steps", "from 1 to"),
        ({"steps": "many"}, 422, "steps", "'many'"),
        ({"width": 65}, 422, "width", "multiple of 8"),
        ({"width": 4096, "height": 4096}, 413, "width", "pixels"),
        ({"enlarge": 9}, 422, "enlarge", "from 1 to 8"),
        ({"enlarge": 10**400}, 422, "enlarge", "from 1 to 8"),
        ({"enlarge": 2, "enlarge_model": "magic"}, 422, "enlarge_model", "magic"),
        ({"enlarge": 2, "enlarge_model": 3}, 422, "enlarge_model", "string"),
        ({"enlarge_model": "x4plus"}, 422, "enlarge", "missing"),
        ({"control_image": "bm8gcGljdHVyZQ=="}, 415, "control_image", ""),
        ({"operation": "upscale"}, 422, "file", "missing"),
        ({"operation": "upscale", "image": "bm8gcGljdHVyZQ=="}, 415, "image", ""),
    ],
)
def test_task_with_wrong_fields_is_refused_and_not_kept(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str, words: str
) -> None:
    total = http.get("/health").json()["total_tasks"]
    answer = http.post("/tasks", json={name: v for name, v in {**QUICK, **fields}.items() if v is not None})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert http.get("/health").json()["total_tasks"] == total


def test_task_ids_that_are_unknown(http: httpx.Client) -> None:
    files = ("/download/{}", "/images/{}", "/images/{}_0.png", "/tasks/{}/results/a.png")
    for path in ("/tasks/{}", "/tasks/{}/events", "/status/{}", *files):
        for id in (NOBODY, "no-id", "%2e%2e%2fdarkroom.db", "x" * 500, "%00"):
            answer = http.get(path.format(id))
            assert answer.status_code == 404, (path, id)
            assert answer.json()["error"]["code"] == "not_found"
    assert http.delete(f"/tasks/{NOBODY}").status_code == 404


def test_task_idempotency(http: httpx.Client) -> None:
    key = {"idempotency-key": "order-1"}
    first = http.post("/tasks", json=QUICK, headers=key)
    again = http.post("/tasks", json=QUICK, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["task_id"] == first.json()["task_id"]
    other = http.post("/tasks", json={**QUICK, "seed": 8}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    stranger = http.post("/tasks", json=QUICK, headers={**key, "authorization": "Bearer another"})
    assert stranger.json()["task_id"] != first.json()["task_id"]
    finished(http, first.json()["task_id"])
    assert http.post("/tasks", json=QUICK, headers=key).json()["status"] == "completed"
    assert http.post("/tasks", json=QUICK, headers={"idempotency-key": "a b"}).status_code == 422


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.heavy)])
def test_task_is_one_for_concurrent_duplicates(service: RunningService, http: httpx.Client, count: int) -> None:
    async def send_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=service.url, timeout=120, limits=limits) as client:
            headers = {"idempotency-key": f"storm-{count}"}
            return await asyncio.gather(*(client.post("/tasks", json=QUICK, headers=headers) for _ in range(count)))

    total = http.get("/health").json()["total_tasks"]
    answers = asyncio.run(send_all())
    assert {answer.status_code for answer in answers} == {202}
    (id,) = {answer.json()["task_id"] for answer in answers}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert http.get("/health").json()["total_tasks"] == total + 1
    assert finished(http, id)["attempts"] == 1


def test_task_that_is_cancelled_stops_within_a_step(service: RunningService, http: httpx.Client) -> None:
    id = submit(http, **{name: value for name, value in LONG.items() if name != "operation"})["task_id"]
    while (task := http.get(f"/tasks/{id}").json())["step"] == 0:
        assert task["status"] in ("queued", "processing")
        time.sleep(0.05)
    assert http.get(f"/download/{id}").status_code == 409
    cancelled = http.delete(f"/tasks/{id}").json()
    before = service.counter("nv_inference_exec_count", "sd15_unet")
    assert (cancelled["status"], cancelled["result_urls"]) == ("cancelled", [])
    time.sleep(2)
    assert service.counter("nv_inference_exec_count", "sd15_unet") - before <= 1, "the step at hand, and no other"
    assert http.get("/health").json()["active_tasks"] == 0
    assert http.delete(f"/tasks/{id}").json()["status"] == "cancelled"
    assert finished(http, id)["status"] == "cancelled"


def test_task_that_completed_cannot_be_cancelled(http: httpx.Client) -> None:
    id = finished(http, submit(http)["task_id"])["task_id"]
    answer = http.delete(f"/tasks/{id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "completed" in answer.json()["detail"]
    missing = http.get(f"/download/{id}", params={"image_index": 1})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "image_index")


def test_tasks_are_listed_for_their_own_client(http: httpx.Client) -> None:
    mine = {"x-api-key": f"secret {time.time()}"}
    ids = [submit(http, mine, seed=seed)["task_id"] for seed in range(3)]
    finished(http, ids[-1])
    http.delete(f"/tasks/{submit(http, mine, steps=150)['task_id']}")
    page = http.get("/tasks", headers=mine).json()["tasks"]
    assert [task["task_id"] for task in page[1:]] == ids[::-1]
    assert len(http.get("/tasks", headers=mine, params={"limit": 2}).json()["tasks"]) == 2
    cancelled = http.get("/tasks", headers=mine, params={"state": "cancelled"}).json()["tasks"]
    assert [task["status"] for task in cancelled] == ["cancelled"]
    assert not {task["task_id"] for task in http.get("/tasks", params={"limit": 500}).json()["tasks"]} & set(ids)
    assert http.get("/tasks", params={"state": "lost"}).status_code == 422
    assert http.get("/tasks", params={"limit": 0}).status_code == 422


def test_task_that_expired_is_410(service: RunningService, http: httpx.Client) -> None:
    done = finished(http, submit(http)["task_id"])
    id, name = done["task_id"], done["results"][0]["name"]
    with closing(sqlite3.connect(service.folder / "state" / "data" / "darkroom.db", timeout=30)) as database:
        database.execute("UPDATE darkroom_tasks SET expired_at = ? WHERE id = ?", (time.time(), id))
        database.commit()
    files = (f"/download/{id}", f"/images/{name}", f"/tasks/{id}/results/{name}")
    for path in (f"/tasks/{id}", f"/status/{id}", f"/tasks/{id}/events", *files):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone"), path
    assert http.delete(f"/tasks/{id}").status_code == 410


def test_health_counts_tasks(http: httpx.Client) -> None:
    before = http.get("/health").json()["total_tasks"]
    finished(http, submit(http)["task_id"])
    fields = {name: value for name, value in QUICK.items() if name != "operation"}
    http.post("/generate", json=fields).raise_for_status()
    after = http.get("/health").json()
    assert (after["total_tasks"] - before, after["queue_length"], after["active_tasks"]) == (2, 0, 0)


def test_tasks_keep_no_secrets(service: RunningService, http: httpx.Client) -> None:
    finished(http, submit(http, {"authorization": "Bearer very-secret-key"})["task_id"])
    for path in (service.folder / "state" / "data").glob("darkroom.db*"):
        assert b"very-secret-key" not in path.read_bytes()
