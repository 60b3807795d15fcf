"""Counts every request, with its outcome and its time."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.errors import Cancelled, DarkroomError
from proxy.error_shapes import surface
from proxy.metrics.current import CURRENT, Current
from proxy.metrics.measures import Measures

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_GONE = 499
"""The status of a request whose client went away before an answer began."""


class Measured:
    """Middleware, outside of everything that refuses requests. A path that no route has counts as "unknown"."""

    def __init__(self, app: ASGIApp, *, measures: Measures) -> None:
        self.app = app
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        current = Current(measures=self._measures)
        token = CURRENT.set(current)
        status, complete = _GONE, False

        async def watched(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                complete = True

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status, complete = (500 if status == _GONE else status), True
            current.error = current.error or DarkroomError.code
            raise
        finally:
            CURRENT.reset(token)
            self._count(scope, current, status, complete=complete)

    def _count(self, scope: Scope, current: Current, status: int, *, complete: bool) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path_format", "unknown")
        self._measures.answered(surface=surface(), method=method, route=route, status=status)
        if not current.operation:
            return
        if status >= 400 and status != _GONE:
            outcome = current.error or f"http_{status}"
        elif not complete:
            outcome = Cancelled.code
        else:
            outcome = current.error or ("accepted" if status == 202 else "done")
        self._measures.worked(
            surface=surface(),
            operation=current.operation,
            model=current.model,
            outcome=outcome,
            seconds=current.age,
        )
