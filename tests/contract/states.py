"""What a service says of its state, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.service import RunningService


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds; fails when it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(service: RunningService) -> dict[str, Any]:
    """The answer of /status."""
    body: dict[str, Any] = httpx.get(f"{service.url}/status", timeout=60).json()
    return body
