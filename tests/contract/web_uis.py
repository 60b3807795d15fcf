"""Requests to AUTOMATIC1111's API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PIL import Image

PROMPT = "a cat on a blue background"
SMALL: dict[str, Any] = {"prompt": PROMPT, "steps": 4, "width": 64, "height": 64, "seed": 7, "cfg_scale": 2}
LONG: dict[str, Any] = {**SMALL, "steps": 40, "batch_size": 2, "n_iter": 50}
"""A hundred images, unless it is stopped."""


def mask(*, lower: bool = True) -> Image.Image:
    """White in the lower half, or in the upper one."""
    made = Image.new("L", (64, 64), 0 if lower else 255)
    made.paste(255 if lower else 0, (0, 32, 64, 64))
    return made


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
