"""Trainings over REST: the real proxy without Triton, a tiny checkpoint, and a session with images."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.processes import Server
from tests.pictures import encoded, photo
from tests.service import running_proxy

ENDED = ("completed", "error")


@contextlib.contextmanager
def training_proxy(folder: Path, checkpoint: Path, **settings: object) -> Iterator[tuple[Server, httpx.Client]]:
    """A proxy that trains on a checkpoint, and its client. State is saved after each step."""
    quick = {"train_checkpoint": checkpoint, "train_save_seconds": 0, "train_threads": 1, "train_nice": 3}
    with (
        running_proxy(folder, **(quick | settings)) as proxy,
        httpx.Client(base_url=proxy.url, timeout=60, trust_env=False) as http,
    ):
        yield proxy, http


def make_session(http: httpx.Client, images: int = 3) -> str:
    """A session with images of different shapes."""
    session = str(http.get("/create_session").raise_for_status().json()["session_id"])
    for index in range(images):
        image = base64.b64encode(encoded(photo(16 * index, 0, 80 + 40 * (index % 2), 80))).decode()
        body = {"session_id": session, "image_base64": image, "prompt": f"a photo of a cat, number {index}"}
        http.post("/post_session_image", json=body).raise_for_status()
    return session


def status(http: httpx.Client, session: str) -> dict[str, Any]:
    return dict(http.post("/train_status", json={"session_id": session}).raise_for_status().json())


def wait_for_step(http: httpx.Client, session: str, step: int, seconds: float = 120) -> dict[str, Any]:
    """Wait until a training has done a step."""
    deadline = time.monotonic() + seconds
    while (said := status(http, session)).get("step", 0) < step:
        assert said["status"] == "in-progress", said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    return said


def wait_ended(http: httpx.Client, session: str, seconds: float = 180) -> dict[str, Any]:
    """Wait until a training has ended; returns its status."""
    deadline = time.monotonic() + seconds
    while (said := status(http, session))["status"] not in ENDED:
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    return said


def trainers(folder: Path) -> list[psutil.Process]:
    """The trainers of a service, also those whose proxy has died."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "training" in command and any(str(folder) in word for word in command):
                found.append(process)
    return found
