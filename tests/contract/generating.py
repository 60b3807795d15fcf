"""Requests to /generate, and what their answers hold."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx

from tests.pictures import encoded, photo

QUICK: dict[str, Any] = {"prompt": "a cat on a blue background", "steps": 2, "seed": 7, "width": 64, "height": 64}
REFERENCE = photo(150, 30, 128, 128)
CONTROL = {**QUICK, "control_image": base64.b64encode(encoded(REFERENCE)).decode()}


def post(http: httpx.Client, accept: str = "*/*", **fields: Any) -> httpx.Response:
    """Send a quick request as JSON."""
    return http.post("/generate", json={**QUICK, **fields}, headers={"accept": accept})


def decoded(data_url: str, kind: str = "png") -> bytes:
    """The file in a data URL."""
    head = f"data:image/{kind};base64,"
    assert data_url.startswith(head)
    return base64.b64decode(data_url.removeprefix(head), validate=True)


def first(answer: httpx.Response, kind: str = "png") -> bytes:
    """The file of the first image of an answer."""
    assert answer.status_code == 200, answer.text
    return decoded(answer.json()["images"][0], kind)


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the events of an answer."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [(name, json.loads(data)) for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.text)]


def named(answer: httpx.Response, status: int, param: str, words: tuple[str, ...] = ()) -> None:
    """The error has this status, names the field, and says these words."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"]["param"] == param, body
    assert body["detail"] == body["error"]["message"]
    assert all(word in body["detail"] for word in words), body["detail"]
