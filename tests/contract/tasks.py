"""Tasks of the service: submitted, followed, finished."""

from __future__ import annotations

import json
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
