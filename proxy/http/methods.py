"""Adds HEAD for every path with GET, and OPTIONS."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.errors import allowed_methods, refusal


class Methods:
    """Answers HEAD as GET without the content, and OPTIONS with the methods of the path."""

    def __init__(self, app: ASGIApp, *, service: FastAPI) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._options(scope)(scope, receive, send)
        else:
            await _head(self.app, scope, receive, send)

    def _options(self, scope: Scope) -> Response:
        scope = {**scope, "app": self.service}
        methods = allowed_methods(Request(scope)) if scope["path"] != "*" else ["GET", "HEAD", "POST", "DELETE"]
        if not methods:
            return refusal(404, "Not Found")
        return Response(status_code=204, headers={"Allow": ", ".join(methods)})


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A stream would last long: it receives a disconnect as soon as the headers are sent."""
    over = False

    async def without_content(message: Message) -> None:
        nonlocal over
        if message["type"] == "http.response.start":
            over = True
            await send(message)
            await send({"type": "http.response.body"})

    async def received() -> Message:
        return {"type": "http.disconnect"} if over else await receive()

    await app({**scope, "method": "GET"}, received, without_content)
