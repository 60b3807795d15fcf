"""Contract E over REST: training in sessions, by the real proxy and the real trainer on tiny checkpoints."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from benchmarks.processes import Server
from tests.contract.tasks import wait_ended as wait_task
from tests.pictures import encoded, photo
from tests.training_service import make_session, status, trainers, training_proxy, wait_ended, wait_for_step

LONG = 100_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_sdxl  # which imports torch and diffusers

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tiny_sdxl.write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def service(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, httpx.Client]]:
    with training_proxy(tmp_path_factory.mktemp("proxy"), checkpoint) as running:
        yield running


@pytest.fixture
def proxy(service: tuple[Server, httpx.Client]) -> Server:
    return service[0]


@pytest.fixture
def http(service: tuple[Server, httpx.Client]) -> httpx.Client:
    return service[1]


def train(http: httpx.Client, session: str, **fields: Any) -> httpx.Response:
    return http.post("/train_lora", json={"session_id": session, **fields})


def lora_of(http: httpx.Client, session: str, iteration: int | None = None) -> bytes:
    answer = http.post("/get_lora", json={"session_id": session, "iteration": iteration}).raise_for_status()
    return base64.b64decode(answer.json()["lora_base64"])


def steps_of(task: dict[str, Any]) -> list[int]:
    """The steps in the table of a finished training."""
    table = httpx.get(task["results"][1]["url"]).text.splitlines()
    return [int(row.partition(",")[0]) for row in table[1:]]


def wait_gone(proxy: Server) -> None:
    deadline = time.monotonic() + 30
    while trainers(proxy.folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def listed(http: httpx.Client, session: str) -> dict[str, Any]:
    found = http.get("/list_sessions").raise_for_status().json()["sessions"]
    return next(dict(one) for one in found if one["session_id"] == session)


def test_training_of_a_session_ends_with_its_newest_lora(http: httpx.Client) -> None:
    session = make_session(http)
    assert status(http, session) == {"status": "none", "progress": 0}
    assert listed(http, session)["training"] == {"status": "none", "progress": 0}
    begun = train(http, session, epochs=2, batch_size=2, rank=2, seed=7, sample_images=1)
    assert (begun.status_code, begun.json()["status"]) == (200, "started")
    said = wait_ended(http, session)
    assert (said["status"], said["progress"], said["lora"]) == ("completed", 100, "lora_1.safetensors"), said
    found = listed(http, session)
    assert found["latest_lora"] == "lora_1.safetensors"
    assert found["training"] == said
    data = lora_of(http, session)
    ups = [value for name, value in load(data).items() if name.endswith("lora_B.weight")]
    assert {value.shape[1] for value in ups} == {2}
    assert all(np.isfinite(value).all() and value.any() for value in ups)
    task = http.get(f"/tasks/{begun.json()['task_id']}").json()
    assert (task["operation"], task["model"], task["total_steps"]) == ("train", None, 4)
    lora, table, curve = task["results"]
    assert "not served" in lora["details"]["samples_left_out"]
    assert (curve["filename"], curve["media_type"]) == ("loss.svg", "image/svg+xml")
    assert httpx.get(curve["url"]).content.startswith(b"<svg")
    assert (lora["filename"], lora["details"]["lora"]) == ("lora_1.safetensors", "lora_1.safetensors")
    assert httpx.get(lora["url"]).content == data
    assert len(httpx.get(table["url"]).text.splitlines()) == 5


def test_training_of_a_session_that_trains_is_refused(http: httpx.Client, proxy: Server) -> None:
    session, other = make_session(http, 1), make_session(http, 1)
    task = train(http, session, steps=LONG).json()["task_id"]
    refused = train(http, session)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert train(http, other, steps=1).status_code == 200  # waits: one training runs at a time
    said = wait_for_step(http, session, 3)
    assert said["status"] == "in-progress"
    assert said["loss"] > 0
    assert [process.nice() for process in trainers(proxy.folder)] == [3]
    http.delete(f"/tasks/{task}").raise_for_status()
    assert wait_ended(http, session)["message"] == "The training was cancelled."
    assert wait_ended(http, other)["status"] == "completed"
    assert train(http, session, steps=1).status_code == 200


def test_deleting_a_session_stops_its_training_and_removes_everything(http: httpx.Client, proxy: Server) -> None:
    session = make_session(http, 1)
    train(http, session, steps=1).raise_for_status()
    first = wait_ended(http, session)["task_id"]
    second = train(http, session, steps=LONG).json()["task_id"]
    wait_for_step(http, session, 2)
    data = proxy.folder / "state" / "data"
    assert list(data.glob(f"tasks/*/{second}/workspace/checkpoint.pt"))
    deleted = http.post("/delete_session", json={"session_id": session})
    assert deleted.json() == {"status": "deleted", "session_id": session}
    assert trainers(proxy.folder) == []
    assert not (data / "session_data" / f"session_{session}").exists()
    assert [path for id in (first, second) for path in data.glob(f"tasks/*/{id}/**/*")] == []
    assert http.post("/train_status", json={"session_id": session}).status_code == 404
    assert http.get(f"/tasks/{second}").status_code == 410
    assert str(http.get("/create_session").json()["session_id"]) != session
    assert session not in {one["session_id"] for one in http.get("/list_sessions").json()["sessions"]}


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no session": ({}, 422, "session_id"),
    "unknown session": ({"session_id": "none"}, 404, "session_id"),
    "no images": ({"session_id": "empty"}, 400, "session_id"),
    "rank": ({"session_id": "full", "rank": 129}, 422, "rank"),
    "rank 0": ({"session_id": "full", "rank": 0}, 422, "rank"),
    "steps": ({"session_id": "full", "steps": 0}, 422, "steps"),
    "epochs": ({"session_id": "full", "epochs": "many"}, 422, "epochs"),
    "batch size": ({"session_id": "full", "batch_size": 65}, 422, "batch_size"),
    "learning rate": ({"session_id": "full", "learning_rate": 0}, 422, "learning_rate"),
    "resolution": ({"session_id": "full", "resolution": 100}, 422, "resolution"),
    "alpha": ({"session_id": "full", "alpha": -1}, 422, "alpha"),
    "seed": ({"session_id": "full", "seed": -2}, 422, "seed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_training_that_is_refused(http: httpx.Client, name: str) -> None:
    fields, code, param = REFUSED[name]
    sent = dict(fields)
    if sent.get("session_id") in ("empty", "full"):
        sent["session_id"] = make_session(http, 1 if sent["session_id"] == "full" else 0)
    answer = http.post("/train_lora", json=sent)
    assert (answer.status_code, answer.json()["error"]["param"]) == (code, param), answer.text
    if sent.get("session_id", "none") != "none":
        assert status(http, sent["session_id"])["status"] == "none"


def test_training_fields_that_are_not_known_are_named(http: httpx.Client) -> None:
    answer = train(http, make_session(http, 0), learn_rate=1)
    assert answer.headers["x-ignored-fields"] == "learn_rate"


def test_training_as_a_task(http: httpx.Client) -> None:
    session = make_session(http, 1)
    sent = {"operation": "train", "session_id": int(session), "steps": 2}
    task = http.post("/tasks", json=sent, headers={"Idempotency-Key": "train-once"})
    assert task.status_code == 202, task.text
    again = http.post("/tasks", json=sent, headers={"Idempotency-Key": "train-once"})
    assert again.json()["task_id"] == task.json()["task_id"]
    done = wait_task(http, task.json()["task_id"])
    assert done["status"] == "completed", done
    assert status(http, session)["lora"] == "lora_1.safetensors"


def test_training_with_a_damaged_image_names_it(http: httpx.Client, proxy: Server) -> None:
    session = make_session(http, 1)
    folder = proxy.folder / "state" / "data" / "session_data" / f"session_{session}" / "1"
    folder.mkdir()
    (folder / "1.png").write_bytes(encoded(photo(0, 0, 64, 64))[:-2000])
    (folder / "1.txt").write_text("a cat")
    train(http, session, steps=1).raise_for_status()
    said = wait_ended(http, session)
    assert (said["status"], said["message"].partition(":")[0]) == ("error", "1/1.png")


def test_training_is_documented(http: httpx.Client) -> None:
    document = http.get("/openapi.json").raise_for_status().json()
    body = document["paths"]["/train_lora"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["session_id"]
    rank = body["properties"]["rank"]
    assert (rank["minimum"], rank["maximum"], rank["default"]) == (1, 128, 4)
    said = document["paths"]["/train_lora"]["post"]["responses"].keys()
    assert {"200", "400", "404", "409", "422", "429", "503"} <= said
    example = document["paths"]["/train_lora"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    session = make_session(http, 1)
    begun = http.post("/train_lora", json={**example["usual"]["value"], "session_id": session})
    assert (begun.status_code, "x-ignored-fields" in begun.headers) == (200, False)
    assert http.post("/delete_session", json={"session_id": session}).status_code == 200
    assert "200" in document["paths"]["/train_status"]["post"]["responses"]
    assert document["components"]["schemas"]["TrainTask"]["required"] == ["operation", "session_id"]


def test_training_goes_on_after_the_proxy_was_killed(tmp_path: Path, checkpoint: Path) -> None:
    """From its last state. That it ends in the same bytes is shown by tests/unit/test_lora_training_process.py."""
    options = {"steps": 40, "batch_size": 2, "seed": 5}
    with training_proxy(tmp_path, checkpoint) as (proxy, http):
        session = make_session(http)
        task = train(http, session, **options).json()["task_id"]
        wait_for_step(http, session, 5)
        proxy.process.send_signal(signal.SIGKILL)
        proxy.process.wait()
        wait_gone(proxy)
    (tmp_path / "first.log").write_text((tmp_path / "output.log").read_text())
    with training_proxy(tmp_path, checkpoint) as (_, http):
        said = wait_ended(http, session)
        assert (said["status"], said["lora"], said["task_id"]) == ("completed", "lora_1.safetensors", task), said
        ended = http.get(f"/tasks/{task}").json()
        assert ended["attempts"] == 2
        assert steps_of(ended) == list(range(1, 41))
        assert all(np.isfinite(value).all() for value in load(lora_of(http, session)).values())


def test_training_goes_on_after_its_trainer_was_killed(http: httpx.Client, proxy: Server) -> None:
    """As by a kernel that is out of memory."""
    session = make_session(http, 1)
    task = train(http, session, steps=60).json()["task_id"]
    reached = wait_for_step(http, session, 5)["step"]
    trainers(proxy.folder)[0].kill()
    said = wait_ended(http, session)
    assert said["status"] == "completed", said
    assert http.get(f"/tasks/{task}").json()["attempts"] == 2
    assert steps_of(http.get(f"/tasks/{task}").json()) == list(range(1, 61))
    assert reached < 60


@pytest.mark.heavy
def test_training_is_handed_back_when_the_service_stops(tmp_path: Path, checkpoint: Path) -> None:
    with training_proxy(tmp_path, checkpoint, train_save_seconds=3600) as (proxy, http):
        session = make_session(http, 1)
        task = train(http, session, steps=LONG).json()["task_id"]
        wait_for_step(http, session, 5)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(60) == 0
        assert trainers(tmp_path) == []
    assert list(tmp_path.glob(f"state/data/tasks/*/{task}/workspace/checkpoint.pt")), "it was asked to save its state"
    with training_proxy(tmp_path, checkpoint) as (_, http):
        wait_for_step(http, session, status(http, session)["step"] + 5)
        assert http.get(f"/tasks/{task}").json()["attempts"] == 1
        http.post("/delete_session", json={"session_id": session}).raise_for_status()


def test_training_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with training_proxy(tmp_path, Path(), train_checkpoint="", model_repository=tmp_path) as (_, http):
        session = make_session(http, 1)
        refused = train(http, session)
        assert refused.status_code == 409
        assert "TRAIN_CHECKPOINT" in refused.json()["detail"]
