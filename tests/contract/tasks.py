"""Tasks of the service: submitted, followed, finished."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

QUICK: dict[str, Any] = {
    "operation": "generate",
    "prompt": "a cat on a blue background",
    "steps": 2,
    "seed": 7,
    "width": 64,
    "height": 64,
}


def submit(http: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """Submit a quick task; returns what the service says of it."""
    answer = http.post("/tasks", json={**QUICK, **fields}, headers=headers)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def follow(http: httpx.Client, id: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a task, which ends with them."""
    events, name = [], ""
    with http.stream("GET", f"/tasks/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    return events


def finished(http: httpx.Client, id: str) -> dict[str, Any]:
    """Wait until a task has completed; returns it."""
    kind, task = follow(http, id)[-1]
    assert kind == "done"
    return task


def wait_ended(http: httpx.Client, id: str, seconds: float = 300) -> dict[str, Any]:
    """Poll a task until it has ended; returns it."""
    deadline = time.monotonic() + seconds
    while (task := http.get(f"/tasks/{id}").raise_for_status().json())["status"] in ("queued", "processing"):
        assert time.monotonic() < deadline, task
        time.sleep(0.05)
    return dict(task)
