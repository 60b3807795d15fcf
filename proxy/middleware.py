"""Plain ASGI middleware: request ids with an access log, and the limit on bodies."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.errors import TooLarge
from proxy.errors import answer
from proxy.observability import REQUEST_ID

log = logging.getLogger("proxy.access")

_USABLE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_DISCARD_SECONDS = 1.0


class RequestIds:
    """Takes X-Request-ID from the client or makes one, logs every request with it, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        token = REQUEST_ID.set(request_id)
        started, status = time.monotonic(), 499  # stays when the client left before an answer began

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            milliseconds = (time.monotonic() - started) * 1000
            # Balancers and the supervisor ask for /health all the time.
            level = logging.DEBUG if scope["path"] == "/health" else logging.INFO
            log.log(level, "%s %s %d %.0f ms", scope["method"], scope["path"], status, milliseconds)
            REQUEST_ID.reset(token)


class BodyLimit:
    """Refuses bodies over the limit with 413: by their declared length before reading, else while reading.

    :param limit_for: the largest body in bytes for a path.
    """

    def __init__(self, app: ASGIApp, limit_for: Callable[[str], int]) -> None:
        self.app = app
        self.limit_for = limit_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit_for(scope["path"])
        declared = Headers(scope=scope).get("content-length", "")
        seen, answered = 0, False

        async def refuse() -> None:
            response = answer(
                TooLarge(f"The request body is over the limit of {limit / (1 << 20):g} MB.", param="body")
            )
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": response.body, "more_body": True})
            await _discard(receive)  # the answer is out, but a connection closed on unread bytes could lose it
            await send({"type": "http.response.body"})

        if declared.isdigit() and int(declared) > limit:
            await refuse()
            return

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _OverLimit
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except _OverLimit:
            if not answered:
                await refuse()


class _OverLimit(BaseException):
    """Passes through the form parser's and the framework's own handlers up to `BodyLimit`."""


async def _discard(receive: Receive) -> None:
    """Read on for a moment without keeping anything: many clients look at an answer only after their upload."""
    deadline = time.monotonic() + _DISCARD_SECONDS
    more = True
    while more and time.monotonic() < deadline:
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            return
        more = message["type"] == "http.request" and message.get("more_body", False)
