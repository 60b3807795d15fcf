"""Server-sent events that report the progress of a job, and data URLs for the images in them.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from darkroom.errors import NotReady, QueueFull, Unauthorized
from proxy.audit.notes import end_stream, note_error
from proxy.error_shapes import SHAPE
from proxy.errors import problem_of
from proxy.http.accept import accept_of
from proxy.keys.ledger import while_valid
from proxy.waiting import at_most

EVENT_STREAM = "text/event-stream"

_KEEP_ALIVE_SECONDS = 15.0
"""After this time without an event a comment is sent, because reverse proxies close silent connections."""
_KEEP_ALIVE = b": keep-alive\n\n"

SendEvent = Callable[[bytes], None]
"""Sends one event made by `event`."""


class EventQueue:
    """The events that a client has not received yet. The object is itself a `SendEvent`."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def __call__(self, message: bytes) -> None:
        self.queue.put_nowait(message)

    @property
    def behind(self) -> bool:
        """Whether events wait for a slow client. The queue is unbounded, so callers should then skip optional ones."""
        return not self.queue.empty()


def event(name: str, content: dict[str, Any], *, retry_after: int | None = None) -> bytes:
    """Encode one event. With images in it this takes a while, so call it in a thread.

    :param retry_after: seconds after which the client may connect again.
    """
    retry = "" if retry_after is None else f"retry: {retry_after * 1000}\n"
    return f"event: {name}\n{retry}data: {json.dumps(content)}\n\n".encode()


def data_url(data: bytes | memoryview, media_type: str) -> str:
    """The data as a data URL. Encoding large data takes a while, so call it in a thread."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def wants_events(request: Request, *others: str) -> bool:
    """Whether the client prefers an event stream.

    :param others: the other media types that the route can answer with.
    """
    return accept_of(request).prefers(EVENT_STREAM, *others)


class EventResponse(StreamingResponse):
    """A response with the events that `work` sends. An exception becomes an `error` event, because the status line has
    been sent by then. `work` is cancelled when the client disconnects, or its key
    is revoked."""

    def __init__(self, work: Callable[[EventQueue], Awaitable[None]]) -> None:
        self._events = _events(work)
        # No caching, and no buffering in nginx.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._events, media_type=EVENT_STREAM, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


def _cut_off(job: asyncio.Future[None]) -> bool:
    """Whether the key was revoked: what waits to be sent is dropped."""
    return job.done() and not job.cancelled() and isinstance(job.exception(), Unauthorized)


async def _events(work: Callable[[EventQueue], Awaitable[None]]) -> AsyncGenerator[bytes, None]:
    events = EventQueue()
    job = asyncio.ensure_future(while_valid(work(events)))
    job.add_done_callback(lambda _: events.queue.put_nowait(None))
    try:
        while True:
            try:
                one = await at_most(_KEEP_ALIVE_SECONDS, events.queue.get())
            except asyncio.TimeoutError:
                yield _KEEP_ALIVE
                continue
            if one is None or _cut_off(job):
                break
            yield one
        await job
    except Exception as error:
        problem = problem_of(error)
        status, content = SHAPE.get()(problem)
        note_error(problem.code)
        with suppress(NotReady):  # the client hears of the error all the same; the row is tried again at the end
            await end_stream()
        seconds = error.retry_after if isinstance(error, QueueFull) else None
        retry = {} if seconds is None else {"retry_after": seconds}
        yield event("error", {"status": status, **retry, **content}, retry_after=seconds)
    finally:
        job.cancel()
