"""Reads the bodies of AUTOMATIC1111's requests: JSON with images in base64, also inside of other values."""

from __future__ import annotations

import math
from typing import Any

from fastapi import Request

from darkroom.errors import InvalidInput
from darkroom.request.fields import shown
from proxy.http.json_body import read_json
from proxy.services import Services

IMAGES = ("image", "input_image", "init_images", "mask", "data")
"""Names of values that hold images, at any depth."""
_LONGEST_TEXT = 1 << 16
"""Bytes; a batch may have many images, and what is not taken for one has a limit in all."""
_DEEPEST = 16
"""Levels of objects and lists: more than any request needs, and far below what JSON encoders can write."""


async def read_body(request: Request, services: Services) -> dict[str, Any]:
    """Return the JSON object of a body; longer images are bytes.

    :raises InvalidInput, TooLarge: it is none, or has what cannot be answered as JSON again.
    """
    max_mb = services.settings.max_upload_mb
    fields = await read_json(request, images=IMAGES, max_mb=max_mb, levels=_DEEPEST, long=_LONGEST_TEXT)
    for name, value in fields.items():
        _check(name[:80], value)
    return fields


def _check(name: str, value: Any) -> None:
    todo = [(value, 1)]
    while todo:
        one, level = todo.pop()
        if level > _DEEPEST:
            raise InvalidInput(f"{name} must have at most {_DEEPEST} levels of lists and objects.", param=name)
        if isinstance(one, float) and not math.isfinite(one):
            raise InvalidInput(f"{name} must be a finite number; got {shown(one)}.", param=name)
        if isinstance(one, dict | list):
            todo += [(inner, level + 1) for inner in (one.values() if isinstance(one, dict) else one)]


def as_json(value: Any) -> Any:
    """The value without images that were read as bytes, which become null."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return None if isinstance(value, bytes) else value
