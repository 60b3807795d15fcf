"""Refusing a request while its body is on the way."""

from __future__ import annotations

import asyncio
import time

from fastapi.responses import JSONResponse
from starlette.types import Receive, Send

from proxy.errors import answer, refusal
from proxy.waiting import at_most

_DISCARD_SECONDS = 10.0

_CLOSE = {"Connection": "close"}


class Refused(BaseException):
    """Ends the work on a request with this answer, from wherever its body is read.

    No `Exception`: the framework would make another error of it.
    """

    def __init__(self, response: JSONResponse) -> None:
        super().__init__(response.status_code)
        self.response = response

    @classmethod
    def because(cls, error: Exception) -> Refused:
        """With the answer that this error gets."""
        return cls(answer(error))

    @classmethod
    def with_status(cls, status: int, message: str, param: str | None = None) -> Refused:
        """With this status."""
        return cls(refusal(status, message, param))


async def refuse(response: JSONResponse, receive: Receive, send: Send) -> None:
    """Send an answer before the body was read, read on for a while, and have the connection closed."""
    response.headers.update(_CLOSE)
    await_rest = response.status_code != 408
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    if await_rest:
        await _discard(receive)  # the answer is out, but a connection closed on unread bytes could lose it
    await send({"type": "http.response.body"})


async def _discard(receive: Receive) -> None:
    """Read on for some seconds without keeping anything: many clients look at an answer only after their upload."""
    deadline = time.monotonic() + _DISCARD_SECONDS
    more = True
    while more and time.monotonic() < deadline:
        try:
            message = await at_most(deadline - time.monotonic(), receive())
        except asyncio.TimeoutError:
            return
        more = message["type"] == "http.request" and message.get("more_body", False)
