"""Requests for edits, as the clients of contract A send them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import httpx

from tests.pictures import encoded, photo

PHOTO = encoded(photo(150, 30, 96, 80))
OTHER = encoded(photo(0, 0, 64, 64))
BASE64 = base64.b64encode(PHOTO).decode()
DATA_URL = f"data:image/png;base64,{BASE64}"
QUICK = {"prompt": "make the background red", "seed": "7", "num_inference_steps": "2"}
TEXT = json.dumps({"old_text": "Hello", "new_text": "Hi"})


def form(path: str, http: httpx.Client, images: Sequence[tuple[str, bytes]] = (), **fields: Any) -> httpx.Response:
    """Send a form.

    :param images: names of fields and files.
    :param fields: besides those of `QUICK`; None leaves one out.
    """
    data = {name: str(value) for name, value in {**QUICK, **fields}.items() if value is not None}
    files = [(name, ("image.png", image, "image/png")) for name, image in images]
    # Without a file, httpx would send another kind of form.
    return http.post(path, files=[*files, *((name, (None, value)) for name, value in data.items())])
