"""Requests to AUTOMATIC1111's API."""

from __future__ import annotations

from typing import Any

from PIL import Image

PROMPT = "a cat on a blue background"
SMALL: dict[str, Any] = {"prompt": PROMPT, "steps": 4, "width": 64, "height": 64, "seed": 7, "cfg_scale": 2}
LONG: dict[str, Any] = {**SMALL, "steps": 40, "batch_size": 2, "n_iter": 50, "alwayson_scripts": {}}
"""A hundred images, unless it is stopped. webuiapi keeps the scripts of an earlier call where none are named."""


def mask(*, lower: bool = True) -> Image.Image:
    """White in the lower half, or in the upper one."""
    made = Image.new("L", (64, 64), 0 if lower else 255)
    made.paste(255 if lower else 0, (0, 32, 64, 64))
    return made
