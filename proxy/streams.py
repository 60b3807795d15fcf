"""Server-sent events: a job that tells how it goes, and data URLs for the pictures in it.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from proxy.errors import describe
from proxy.http.accept import accept_of
from proxy.waiting import at_most

EVENT_STREAM = "text/event-stream"

_QUIET_SECONDS = 15.0
"""After which a stream shows that it is still there: what is on the way closes silent connections."""
_STILL_HERE = b": still here\n\n"

Tell = Callable[[bytes], None]
"""Sends one event, which `event` made."""


class Told:
    """Events on their way to a client; calling it is a `Tell`."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def __call__(self, one: bytes) -> None:
        self.queue.put_nowait(one)

    @property
    def behind(self) -> bool:
        """Whether the client has not taken what was told: what may be left out should be, for all of it is kept."""
        return not self.queue.empty()


def event(name: str, content: dict[str, Any], *, retry_after: int | None = None) -> bytes:
    """One event. With pictures inside it takes a while: call it in a thread.

    :param retry_after: seconds after which a client may come again.
    """
    retry = "" if retry_after is None else f"retry: {retry_after * 1000}\n"
    return f"event: {name}\n{retry}data: {json.dumps(content)}\n\n".encode()


def data_url(data: bytes | memoryview, media_type: str) -> str:
    """The data as a URL. Encodes a lot of base64: call it in a thread."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def wants_events(request: Request, *others: str) -> bool:
    """Whether the client asks for events.

    :param others: media types of the other answers that there are.
    """
    return accept_of(request).prefers(EVENT_STREAM, *others)


class EventResponse(StreamingResponse):
    """Answers with the events that `work` tells. What it raises comes as an `error` event, since the status line has
    gone out by then. When the client goes away, `work` is cancelled."""

    def __init__(self, work: Callable[[Told], Awaitable[None]]) -> None:
        self._events = _events(work)
        # Not to be kept by caches, nor gathered by nginx.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._events, media_type=EVENT_STREAM, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _events(work: Callable[[Told], Awaitable[None]]) -> AsyncGenerator[bytes, None]:
    told = Told()
    job = asyncio.ensure_future(work(told))
    job.add_done_callback(lambda _: told.queue.put_nowait(None))
    try:
        while True:
            try:
                one = await at_most(_QUIET_SECONDS, told.queue.get())
            except asyncio.TimeoutError:
                yield _STILL_HERE
                continue
            if one is None:
                break
            yield one
        await job
    except Exception as error:
        status, content, headers = describe(error)
        seconds = int(headers["Retry-After"]) if "Retry-After" in headers else None
        retry = {} if seconds is None else {"retry_after": seconds}
        yield event("error", {"status": status, **retry, **content}, retry_after=seconds)
    finally:
        job.cancel()
