"""Connections: invalid requests are refused with our JSON errors, and incomplete ones time out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from proxy.errors import refusal

MAX_HEADERS = 32 << 10
_DISCARD_SECONDS = 10
_READ_AT_A_TIME = 1 << 16
_TINY_CHUNKS, _TINY = 2000, 64
_WAITS_FOR_ANSWER = (h11.IDLE, h11.SEND_RESPONSE)


class _Connection(h11.Connection):
    """Refuses requests that h11 accepts, and stores the reason of a refusal."""

    refused: tuple[int, str] = (400, "")

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADERS)
        self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check_request(event)
            elif isinstance(event, h11.Data):
                self._check_data(event)
        except h11.RemoteProtocolError as error:
            self.refused = self._why(error)
            raise
        return event

    def _check_request(self, request: h11.Request) -> None:
        self._chunks = self._bytes = 0
        names = [name for name, _ in request.headers]
        if b"content-length" in names and b"transfer-encoding" in names:
            raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
        if sum(len(name) + len(value) + 4 for name, value in request.headers) > MAX_HEADERS:
            raise h11.RemoteProtocolError("", 431)

    def _check_data(self, data: h11.Data) -> None:
        """Refuse bodies of too many small chunks: every chunk costs time, however small it is."""
        self._chunks += 1
        self._bytes += len(data.data)
        if self._chunks > _TINY_CHUNKS and self._bytes < self._chunks * _TINY:
            raise h11.RemoteProtocolError("", 413)

    def _why(self, error: h11.RemoteProtocolError) -> tuple[int, str]:
        status = error.error_status_hint
        if status == 431 and b"\r\n" not in self.trailing_data[0][:MAX_HEADERS] and self.trailing_data[0]:
            return 414, f"The request line must have at most {MAX_HEADERS >> 10} kB."
        if status == 431:
            return 431, f"The request's headers must have at most {MAX_HEADERS >> 10} kB."
        if status == 413:
            return 413, f"The chunks of the body must have {_TINY} bytes on average."
        why = str(error).partition(": bytearray")[0]  # no raw bytes
        return status, f"This is no HTTP request: {why[:200]}."


class _Transport:
    """A connection that is not closed while unread bytes remain: the answer could get lost."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._close = close
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether the connection is closing, for writers."""
        return self.closed or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection soon."""
        if not self.closed:
            self.closed = True
            self._close()


class Protocol(H11Protocol):
    """HTTP/1.1 with a time limit: a request's headers have to arrive `header_seconds` after its first byte, or
    after the connection was made."""

    header_seconds = 10.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._connection = self.conn = _Connection()
        self._header_timer: asyncio.TimerHandle | None = None
        self._discards = False
        self._discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # asyncio reads 256 kB at a time; handling them delays all other requests.
        with contextlib.suppress(AttributeError):  # uvloop's has no such setting
            transport.max_size = _READ_AT_A_TIME  # type: ignore[attr-defined]
        self._socket = transport
        super().connection_made(_Transport(transport, self._close))  # type: ignore[arg-type]
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discards:
            self._discarded += len(data)
            return
        super().data_received(data)
        self._watch_headers()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:  # it was answered early; uvicorn would take the rest for ever
            self.loop.call_later(self.header_seconds, self._body_is_late, self.cycle)
        super().on_response_complete()
        self._watch_headers()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request, in place of uvicorn."""
        self._refuse(*self._connection.refused)

    def shutdown(self) -> None:
        self._stop_watching()
        if self._discards:
            self._socket.close()
        else:
            super().shutdown()

    def _watch_headers(self) -> None:
        """Run the timer exactly while the headers of a request are incomplete."""
        begun = self.conn.their_state is h11.IDLE and (self.cycle is None or bool(self.conn.trailing_data[0]))
        if not begun or self.transport.is_closing():
            self._stop_watching()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self._headers_are_late)

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self.conn.trailing_data[0]:
            self._refuse(
                408, f"The request's headers took longer than REQUEST_TIMEOUT = {self.header_seconds:g} s to come."
            )
        else:
            self._socket.close()

    def _body_is_late(self, cycle: object) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self._socket.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer in place of the app, if no answer has started, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in _WAITS_FOR_ANSWER:
            self._socket.close()
            return
        answer = refusal(status, message)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        events = (
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _close(self) -> None:
        """Close at once, or if a request is incomplete, read and discard for a while: many clients read an answer only
        after their upload."""
        self._stop_watching()
        if self.conn.their_state in (h11.SEND_BODY, h11.ERROR) and self._socket.can_write_eof():
            self._discards = True
            self.flow.resume_reading()
            self._socket.write_eof()
            self._discard(1, 0)
        else:
            self._socket.close()

    def _discard(self, seconds: int, discarded: int) -> None:
        """Continue for some seconds, as long as bytes arrive."""
        if seconds > _DISCARD_SECONDS or (seconds > 1 and self._discarded == discarded):
            self._socket.close()
        else:
            self.loop.call_later(1, self._discard, seconds + 1, self._discarded)


def protocol(header_seconds: float) -> type[Protocol]:
    """The class for `uvicorn.Config(http=...)`."""
    return type("Protocol", (Protocol,), {"header_seconds": header_seconds})
