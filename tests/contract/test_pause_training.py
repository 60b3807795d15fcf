"""Trainings that are paused and resumed over REST, by the real proxy and the real trainer on a tiny checkpoint."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from benchmarks.processes import Server
from tests.training_service import make_session, status, trainers, training_proxy, wait_ended, wait_for_step

LONG = 100_000
STEPS = 80
"""Of a training that is paused before it has done them all."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import sd15_checkpoints  # which imports torch and diffusers

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    sd15_checkpoints.write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def service(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, httpx.Client]]:
    with training_proxy(tmp_path_factory.mktemp("proxy"), checkpoint, train_save_seconds=3600) as running:
        yield running


def begin(http: httpx.Client, session: str, **fields: Any) -> str:
    answer = http.post("/train_lora", json={"session_id": session, "batch_size": 2, **fields}).raise_for_status()
    return str(answer.json()["task_id"])


def wait_stopped(proxy: Server) -> None:
    deadline = time.monotonic() + 60
    while trainers(proxy.folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0)  # the proxy notes the step that was saved


def newest_lora(http: httpx.Client, session: str) -> dict[str, Any]:
    answer = http.post("/get_lora", json={"session_id": session}).raise_for_status()
    return dict(load(base64.b64decode(answer.json()["lora_base64"])))


@pytest.mark.heavy
def test_training_that_is_paused_ends_in_the_same_bytes(tmp_path: Path, checkpoint: Path) -> None:
    """Through a restart of the service; nothing but the pause saves its state."""
    with training_proxy(tmp_path, checkpoint, train_save_seconds=3600) as (proxy, http):
        session = make_session(http)
        task = begin(http, session, steps=STEPS, seed=5)
        wait_for_step(http, session, 2)
        paused = http.post(f"/tasks/{task}/pause").raise_for_status().json()
        assert (paused["status"], paused["queue_position"]) == ("paused", None)
        wait_stopped(proxy)
        said = status(http, session)
        assert (said["status"], said["paused"], said["task_id"]) == ("in-progress", True, task)
        assert 2 <= said["step"] < STEPS
        assert http.post("/train_lora", json={"session_id": session}).status_code == 409
        assert [one["task_id"] for one in http.get("/tasks?state=paused").json()["tasks"]] == [task]
    with training_proxy(tmp_path, checkpoint) as (proxy, http):
        time.sleep(2)
        assert trainers(proxy.folder) == []
        assert status(http, session) == said
        assert http.post(f"/tasks/{task}/resume").raise_for_status().json()["status"] in ("queued", "processing")
        assert wait_for_step(http, session, 1)["step"] >= said["step"], "no step is done again"
        assert wait_ended(http, session)["status"] == "completed"
        assert http.get(f"/tasks/{task}").json()["attempts"] == 1
        table = httpx.get(http.get(f"/tasks/{task}").json()["results"][1]["url"]).text.splitlines()
        assert [int(row.partition(",")[0]) for row in table[1:]] == list(range(1, STEPS + 1))
        first = newest_lora(http, session)
        begin(http, session, steps=STEPS, seed=5)
        assert wait_ended(http, session)["lora"] == "lora_2.safetensors"
        second = newest_lora(http, session)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_training_that_is_paused_lets_others_train(service: tuple[Server, httpx.Client]) -> None:
    proxy, http = service
    session, other = make_session(http, 1), make_session(http, 1)
    task = begin(http, session, steps=LONG)
    wait_for_step(http, session, 2)
    http.post(f"/tasks/{task}/pause").raise_for_status()
    begin(http, other, steps=2)
    assert wait_ended(http, other)["status"] == "completed"
    assert status(http, session)["paused"]
    assert trainers(proxy.folder) == []
    http.post("/delete_session", json={"session_id": other}).raise_for_status()
    http.post("/delete_session", json={"session_id": session}).raise_for_status()
    assert not list((proxy.folder / "state" / "data").glob(f"tasks/*/{task}/**/*"))
    assert http.post(f"/tasks/{task}/resume").status_code == 410


def test_task_that_is_not_there_cannot_be_paused(service: tuple[Server, httpx.Client]) -> None:
    _, http = service
    for word in ("pause", "resume"):
        assert http.post(f"/tasks/00000000-0000-0000-0000-000000000000/{word}").status_code == 404
