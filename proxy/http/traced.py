"""Requests in traces. Their spans are FastAPI's own; this adds what only we know, and a span for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom import tracing
from proxy.error_shapes import surface
from proxy.observability import REQUEST_ID

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig  # which only the extra `traces` asks for

_STREAM = b"text/event-stream"
_ASKED_ALL_THE_TIME = ("/health", "/metrics")
"""Paths of load balancers, of the supervisor and of Prometheus."""


def telemetry() -> TelemetryConfig:
    """The argument `telemetry` of FastAPI: a span for each request, continuing the trace of its `traceparent`."""
    return {
        "tracer_provider": tracing.provider(),
        "tracing": tracing.provider() is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope["path"].startswith(_ASKED_ALL_THE_TIME),
    }


class Traced:
    """Middleware, inside of the one that gives requests their ids.

    The span `result` is the answer on its way to the client. A stream of events has none: it begins before the work.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        tracing.note(request_id=REQUEST_ID.get(), surface=surface())
        result, size = tracing.OFF, 0

        async def watched(message: Message) -> None:
            nonlocal result, size
            if message["type"] == "http.response.start" and not _is_stream(message):
                result = tracing.span("result")
            ends = message["type"] == "http.response.body" and not message.get("more_body")
            size += len(message.get("body", b""))
            if not ends:
                await send(message)
                return
            with result:
                result.note(bytes=size)
                await send(message)

        await self.app(scope, receive, watched)


def _is_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(_STREAM) for name, value in message.get("headers", ()))
