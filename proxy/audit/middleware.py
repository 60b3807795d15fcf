"""One row for every request that makes, changes or deletes something, written before the first byte of its answer."""

from __future__ import annotations

import asyncio
import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.errors import Cancelled, DarkroomError, NotReady
from proxy.audit.entries import Entries
from proxy.audit.notes import NOTES, Notes
from proxy.audit.trail import Trail
from proxy.callers import CALLER
from proxy.errors import answer

log = logging.getLogger(__name__)

_CHANGE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MAKE = frozenset({"/create_session"})
"""Paths whose GET makes something."""
_READ = frozenset({"/png-info", "/get_lora", "/train_status", "/sdapi/v1/png-info"})
"""Paths whose POST only reads."""
_DECISIONS = frozenset({401, 403})
"""Statuses of refusals that have a row whatever was asked for."""
_EVENTS = "text/event-stream"
_DONE, _ACCEPTED, _GONE = "done", "accepted", Cancelled.code
_CLOSED = 499
"""The status in the row of a request whose client went away before an answer began."""


class Audited:
    """Writes the rows. The app has the writer as `app.state.trail`.

    The row of a plain answer says how it ended. An answer that is a stream of events has two: one before it begins,
    and one with the outcome before its last event. Where a row cannot be written, the answer is 503.
    """

    def __init__(self, app: ASGIApp, *, entries: Entries) -> None:
        self.app = app
        self._entries = entries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, scope["app"].state.trail, self._entries)
        token = NOTES.set(exchange.notes)
        try:
            await exchange.run(self.app, receive)
        finally:
            NOTES.reset(token)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, trail: Trail, entries: Entries) -> None:
        self.notes = Notes(scope=scope)
        self._scope, self._send, self._trail, self._entries = scope, send, trail, entries
        self._changes = _changes(scope)
        self._caller = CALLER.get()
        self._started = self._refused = self._over = False
        self._told: int | None = None  # results in the last row of a stream

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            if self._changes:
                self._trail.check()
            await app(self._scope, receive, self._watched)
        except Exception as error:
            if self._refused:
                return  # our own, or what became of it on its way through the app
            if self._started:
                raise
            if isinstance(error, NotReady):
                await answer(error)(self._scope, receive, self._send)
                return
            await self._last_words(500, DarkroomError.code)
            raise
        if not self._started:
            await self._last_words(_CLOSED, _GONE)
        elif self.notes.on_end is not None and not self._over:
            await self._end_late(_GONE)

    async def _watched(self, message: Message) -> None:
        """Pass a message of the answer on, after the row that belongs before it."""
        if message["type"] == "http.response.start":
            self._started = True
            await self._begin(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self._over = True
            if self.notes.on_end is not None:
                await self._end_late(None)
        await self._send(message)

    async def _begin(self, message: Message) -> None:
        self._caller = CALLER.get()  # which a layer inside of this one has set
        status = int(message["status"])
        if not self._changes and status not in _DECISIONS:
            return
        if self.notes.accepted and status < 400:
            return  # each task has a row of its own
        streams = Headers(raw=message.get("headers", [])).get("content-type", "").startswith(_EVENTS)
        outcome = (self.notes.error or f"http_{status}") if status >= 400 else _ACCEPTED if streams else _DONE
        try:
            await self._write_request(status, outcome)
        except NotReady as error:
            self._refused = True
            await answer(error)(self._scope, _nothing, self._send)
            raise _Refused from error  # so that the work of a stream stops
        if streams:
            self.notes.on_end = self._end_stream

    async def _write_request(self, status: int, outcome: str) -> None:
        entry = self._entries.request(self._scope, self.notes, self._caller, status=status, outcome=outcome)
        await self._trail.write(entry)

    async def _end_stream(self, outcome: str | None = None) -> None:
        """Write the second row of a stream; another one if there are more results than when it was written."""
        if self._told == len(self.notes.results):
            return
        before, self._told = self._told, len(self.notes.results)
        found = outcome or self.notes.error or _DONE
        row = self._entries.result(self.notes, self._caller, outcome=found)
        try:
            # It goes on where the client leaves meanwhile, or there would be no row, or two.
            await asyncio.shield(self._trail.write(row))
        except NotReady:
            self._told = before
            raise

    async def _end_late(self, outcome: str | None) -> None:
        """Write the second row of a stream whose last event is gone, if none of the layers has written it."""
        try:
            await self._end_stream(outcome)
        except NotReady:
            log.error("the end of a stream is not in the audit trail")

    async def _last_words(self, status: int, outcome: str) -> None:
        """Write the row of a request without an answer of the app."""
        if not self._changes:
            return
        try:
            await self._write_request(status, outcome)
        except NotReady:
            log.error("a request without an answer is not in the audit trail")


class _Refused(Exception):
    """The answer is replaced by 503."""


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _changes(scope: Scope) -> bool:
    """Whether a request may make, change or delete something."""
    path = scope["path"]
    return path not in _READ if scope["method"] in _CHANGE else scope["method"] == "GET" and path in _MAKE
