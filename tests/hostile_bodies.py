"""Request bodies that somebody might send to hurt the service: none of them may cost time or memory."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xyz"
ENDPOINTS = ("/tasks", "/generate", "/submit", "/batch_submit", "/png-info", "/api/upscale", "/api/upscale-batch")
_UNIT = 1 << 20
_PART = b'--xyz\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'


@dataclass(frozen=True)
class Body:
    """One kind of body: `start`, then `unit` again and again. No end: it is refused before."""

    content_type: str
    start: bytes
    unit: bytes

    def pieces(self, size: int) -> Iterator[bytes]:
        """About `size` bytes."""
        block = self.unit * max(1, _UNIT // len(self.unit))
        yield self.start
        left = size - len(self.start)
        while left > 0:
            yield block[:left]
            left -= len(block)


BODIES = {
    "urlencoded-one-field": Body(URLENCODED, b"prompt=", b"a"),
    "urlencoded-escapes": Body(URLENCODED, b"prompt=", b"%41"),
    "urlencoded-many-fields": Body(URLENCODED, b"a=1", b"&a=1"),
    "urlencoded-one-name": Body(URLENCODED, b"a", b"a"),
    "json-lists": Body(JSON, b'{"prompt":[', b"[],"),
    "json-objects": Body(JSON, b'{"prompt":[', b'{"":0},'),
    "json-nested": Body(JSON, b'{"prompt":', b"["),
    "json-nested-objects": Body(JSON, b'{"prompt":', b'{"a":'),
    "json-numbers": Body(JSON, b'{"prompt":[', b"1,"),
    "json-digits": Body(JSON, b'{"seed":', b"1"),
    "json-spaces": Body(JSON, b'{"prompt":', b" "),
    "json-keys": Body(JSON, b'{"prompt":0', "".join(f',"k{n}":{n}' for n in range(60_000)).encode()),
    "json-strings": Body(JSON, b'{"prompt":[', b'"",'),
    "json-escapes": Body(JSON, b'{"prompt":"', b"\\u0041"),
    "json-quotes": Body(JSON, b'{"prompt":"', b'\\"'),
    "json-backslashes": Body(JSON, b'{"prompt":"', b"\\\\"),
    "json-in-utf-16": Body(JSON, '{"prompt":['.encode("utf-16"), "[],".encode("utf-16-le")),
    "multipart-tiny-parts": Body(MULTIPART, _PART % b"a", b"\r\n" + _PART % b"a"),
    "multipart-tiny-files": Body(
        MULTIPART, b"", b'--xyz\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\na\r\n'
    ),
    "multipart-text": Body(MULTIPART, _PART % b"prompt", b"a"),
    "multipart-texts": Body(MULTIPART, b"", _PART % b"prompt" + b"a" * 900_000 + b"\r\n"),
    "multipart-name": Body(MULTIPART, _PART[:44], b"a"),
    "multipart-header": Body(MULTIPART, b"--xyz\r\nX: ", b"a"),
    "multipart-headers": Body(MULTIPART, b"--xyz\r\n", b"X: a\r\n"),
    "multipart-preamble": Body(MULTIPART, b"", b"\r\n--xy"),
}


@dataclass(frozen=True)
class Answer:
    """Of the service; status 0 where there was none."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the error in our shape."""
        error = json.loads(self.body)
        assert error["detail"] == error["error"]["message"]
        return str(error["error"]["code"])


def raw(url: str, *data: bytes, timeout: float = 60) -> Answer:
    """Send bytes as they are, and read until the answer is there in full or the connection closes."""
    return _exchange(url, iter(data), timeout)


def post(url: str, path: str, body: Body, size: int, *, chunked: bool, timeout: float = 120) -> Answer:
    """Send a body, as much of it as is taken."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {body.content_type}\r\n{length}\r\n\r\n"

    def data() -> Iterator[bytes]:
        yield head.encode()
        for piece in body.pieces(size):
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        if chunked:
            yield b"0\r\n\r\n"

    return _exchange(url, data(), timeout)


def _exchange(url: str, data: Iterator[bytes], timeout: float) -> Answer:
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout) as connection:
        try:
            for piece in data:
                connection.sendall(piece)
        except OSError:
            pass  # it was closed; the answer may be there all the same
        return _read(lambda: connection.recv(1 << 16))


def _read(receive: Callable[[], bytes]) -> Answer:
    came = b""
    try:
        while b"\r\n\r\n" not in came and (piece := receive()):
            came += piece
        head, _, body = came.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)) and (piece := receive()):
            body += piece
    except OSError:
        return Answer(0, {}, b"")
    return Answer(int(first.split(" ")[1]) if first else 0, headers, body)
