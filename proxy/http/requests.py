"""Request ids, and a line in the log for every request."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.error_shapes import SHAPE, shape_of
from proxy.observability import REQUEST_ID

log = logging.getLogger("proxy.access")

_USABLE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class RequestIds:
    """Takes X-Request-ID from the client or makes one, logs every request with it, and sends it back. As the
    outermost middleware it also chooses the shape of errors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        token = REQUEST_ID.set(request_id)
        shape = SHAPE.set(shape_of(scope["path"]))
        started, status = time.monotonic(), 499  # stays if the client disconnected before an answer started

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
            log.log(level, "%s %.300s %d %.0f ms", scope["method"], scope["path"], status, milliseconds)
            SHAPE.reset(shape)
            REQUEST_ID.reset(token)
