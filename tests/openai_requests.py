"""Requests as OpenAI's clients write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request


def request_with(body: bytes, content_type: str) -> Request:
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return sent.pop(0)

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "path": "/v1", "headers": headers, "state": {}}, receive)


def multipart(parts: Sequence[tuple[str, str | bytes]]) -> Request:
    """A form as OpenAI's clients write it: images with a file name, all else as text."""
    body = b""
    for name, value in parts:
        file = '; filename="image.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
    return request_with(body + b"--xyz--\r\n", "multipart/form-data; boundary=xyz")
