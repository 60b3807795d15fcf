"""Tasks for a service that is about to be killed, and checks that they complete."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

TINY: dict[str, Any] = {"operation": "generate", "prompt": "a cat", "width": 64, "height": 64, "guidance_scale": 1}

_TOLERANCE = 2
"""Levels of 255: rows of other tasks stand beside those of a picture, other ones each time."""


@dataclass
class Load:
    """Tasks that were accepted, and what has to become of them."""

    url: str
    steps: int = 30
    ids: list[str] = field(default_factory=list)
    pictures: dict[int, Any] = field(default_factory=dict)
    """By seed, the first that was seen: loads that share them have to make the same ones."""
    fields: Mapping[str, Any] = field(default_factory=lambda: TINY)

    def submit(self, count: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for seed in range(len(self.ids), len(self.ids) + count):
                answer = http.post("/tasks", json={**self.fields, "seed": seed, "steps": self.steps})
                assert answer.status_code == 202, answer.text
                self.ids.append(answer.json()["task_id"])

    def states(self) -> dict[str, str]:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            page = http.get("/tasks", params={"limit": 500}).json()["tasks"]
        listed = [task["task_id"] for task in page]
        assert len(listed) == len(set(listed))
        return {task["task_id"]: task["status"] for task in page if task["task_id"] in self.ids}

    def wait(self, until: Callable[[dict[str, str]], bool], timeout: float) -> dict[str, str]:
        deadline = time.monotonic() + timeout
        states: dict[str, str] = {}
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError, KeyError):  # no answer, or 503
                states = self.states()
                if until(states):
                    return states
            time.sleep(0.1)
        pytest.fail(f"not in {timeout} s: {states}")

    def wait_for_work(self, done: int) -> None:
        """Return in the middle: some have completed, one runs."""

        def middle(states: dict[str, str]) -> bool:
            values = list(states.values())
            return values.count("completed") >= done and "processing" in values

        self.wait(middle, 120)

    def require_unfinished(self) -> None:
        """What is killed now has something to lose."""
        assert any(state in ("queued", "processing") for state in self.states().values())

    def wait_completed(self, timeout: float) -> None:
        """Return when all of them have."""
        self.wait(lambda states: all(states[id] == "completed" for id in self.ids), timeout)

    def check(self, timeout: float = 300) -> None:
        """All of them completed, once, and with a whole picture: the one of its seed."""
        states = self.wait(lambda states: all(s not in ("queued", "processing") for s in states.values()), timeout)
        assert states == dict.fromkeys(self.ids, "completed")
        self.check_pictures()

    def check_pictures(self) -> None:
        """Each has one picture: a whole one, the one that its seed always gives."""
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for seed, id in enumerate(self.ids):
                task = http.get(f"/tasks/{id}").json()
                assert [result["details"]["seed"] for result in task["results"]] == [seed]
                with Image.open(io.BytesIO(http.get(f"/download/{id}").raise_for_status().content)) as image:
                    assert (image.format, image.size) == ("PNG", (64, 64))
                    pixels = np.asarray(image).astype(int)
                assert np.abs(pixels - self.pictures.setdefault(seed, pixels)).max() <= _TOLERANCE
