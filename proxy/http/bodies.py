"""Limits of request bodies: kind, size, and how long they may stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.errors import TooLarge
from proxy.http.json_gauge import JsonGauge
from proxy.http.refused import Refused, refuse
from proxy.waiting import at_most

MEGABYTE = 1 << 20


class Kind(str, Enum):
    """The kind of a body, by its Content-Type."""

    JSON = "application/json"
    MULTIPART = "multipart/form-data"
    URLENCODED = "application/x-www-form-urlencoded"


def kind_of(content_type: str) -> Kind | None:
    """None for a kind that no endpoint reads."""
    name = content_type.partition(";")[0].strip().lower()
    if name.startswith("application/") and name.endswith("+json"):
        return Kind.JSON
    return next((kind for kind in Kind if kind.value == name), None)


@dataclass(frozen=True)
class Intake:
    """The bodies that one endpoint accepts.

    :param sizes: the largest body in bytes of each kind; other kinds are refused with 415.
    """

    sizes: Mapping[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, MEGABYTE))

    def check(self, headers: Headers) -> Kind | None:
        """Return the kind of the body, as far as the headers say; None if there is no body.

        :raises Refused: the endpoint does not accept it.
        """
        declared = headers.get("content-length", "")
        if "transfer-encoding" not in headers and declared in ("", "0"):
            return None
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise Refused.with_status(
                415, f"Content-Encoding must be absent; got {encoding!r:.80}. Send the body as it is."
            )
        content_type = headers.get("content-type", "")
        kind = kind_of(content_type)
        if declared.isdigit() and int(declared) > self.limit(kind):
            raise self.too_large(kind)
        if kind is None or kind not in self.sizes:
            came = f"{content_type!r:.80}" if content_type else "nothing"
            raise Refused.with_status(
                415, f"Content-Type must be {' or '.join(one.value for one in self.sizes)}; got {came}."
            )
        return kind

    def limit(self, kind: Kind | None) -> int:
        """The largest body in bytes."""
        return MEGABYTE if kind is None else self.sizes.get(kind, MEGABYTE)

    def too_large(self, kind: Kind | None) -> Refused:
        """The answer to a body over the limit."""
        limit = self.limit(kind) / MEGABYTE
        return Refused.because(TooLarge(f"The request body is over the limit of {limit:.4g} MB.", param="body"))


_READS_NO_BODY = ("GET", "HEAD", "OPTIONS")


class Bodies:
    """Refuses bodies that are too large (413), of a wrong kind (415) or that stand still (408): by the headers before
    anything is read, otherwise while it is read. Code that reads the body may raise `Refused`. An upload that breaks
    off ends the work on it, without an answer.

    :param intakes: of each path; other paths take a megabyte of any kind.
    :param stall_seconds: the longest time without a byte, while the body is being read.
    """

    def __init__(self, app: ASGIApp, *, intakes: Mapping[str, Intake], stall_seconds: float) -> None:
        self.app = app
        self.intakes = intakes
        self.stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            intake = self.intakes.get(scope["path"], Intake())
            kind = None if scope["method"] in _READS_NO_BODY else intake.check(Headers(scope=scope))
            reader = _Reader(receive, intake, kind, self.stall_seconds)
            await self.app(scope, lambda: reader.next(answered), watched)
        except Refused as refused:
            if not answered:
                await refuse(refused.response, scope, receive, send)
        except BrokenOff:
            return  # the client is gone; the access log says 499


class BrokenOff(BaseException):
    """The client disconnected before the end of its body. The framework's handlers do not catch it."""


class _Reader:
    """Passes on the messages of one request and counts their bytes and elements."""

    def __init__(self, receive: Receive, intake: Intake, kind: Kind | None, stall_seconds: float) -> None:
        self._receive = receive
        self._intake = intake
        self._kind = kind
        self._stall_seconds = stall_seconds
        self._gauge = JsonGauge() if kind is Kind.JSON else None
        self._complete = kind is None
        self.seen = 0

    async def next(self, answered: bool) -> Message:
        """The next message.

        :param answered: an answer has started, so the body is not needed any more.
        :raises Refused, BrokenOff: the body is invalid; it will not arrive.
        """
        if self._complete or answered:
            return await self._receive()
        try:
            message = await at_most(self._stall_seconds, self._receive())
        except asyncio.TimeoutError:
            raise Refused.with_status(
                408, f"The body stopped coming: nothing for REQUEST_TIMEOUT = {self._stall_seconds:g} s."
            ) from None
        if message["type"] == "http.disconnect":
            raise BrokenOff
        self._complete = not message.get("more_body", False)
        self._look_at(message.get("body", b""))
        return message

    def _look_at(self, piece: bytes) -> None:
        self.seen += len(piece)
        if self.seen > self._intake.limit(self._kind):
            raise self._intake.too_large(self._kind)
        wrong = self._gauge.feed(piece) if self._gauge else None
        if wrong is not None:
            raise Refused.because(wrong)
