"""Reads JSON bodies with images in base64, without blocking other requests."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from fastapi import Request

from darkroom.errors import InvalidInput, TooLarge

Result = TypeVar("Result")

_LONG = 1 << 20
"""Length in bytes above which a string can only be an image."""
_MAX_TEXT = 4 << 20
"""Maximum bytes of the JSON without those strings."""
_SMALL = 1 << 18
"""Size in bytes up to which a body is parsed at once."""
_PIECE = 1 << 20
"""Base64 is decoded in pieces: nothing else runs in this process during one."""
_SPOOL = 1 << 20
_DATA_URL = b"data:"
_HEAD = 200
_SPACE = b" \t\n\r\x0b\x0c"
_LONGEST_ESCAPE = len(r"\u0000")

_worker = ThreadPoolExecutor(1, thread_name_prefix="bodies")
"""One large body at a time: each takes a few times its size in memory while it is read."""


async def in_turn(work: Callable[..., Result], *given: Any) -> Result:
    """Do something with a large body in a thread, one at a time."""
    return await asyncio.get_running_loop().run_in_executor(_worker, work, *given)


async def read_json(
    request: Request, *, images: Collection[str], max_mb: float, levels: int = 1, long: int = _LONG
) -> dict[str, Any]:
    """Return the JSON object of a body. Images that are too long for text, also in lists, are decoded from base64 to
    bytes.

    :param images: names of the fields that may hold images.
    :param max_mb: limit of a decoded image.
    :param levels: of objects and lists in which images may lie; 1 is a field, or a list that is one.
    :param long: bytes; a longer text can only be an image.
    :raises InvalidInput, TooLarge: the body is no object; an image is no base64 or over `max_mb`; a text is too long.
    """
    with SpooledTemporaryFile(max_size=_SPOOL) as body:
        size, pieces = 0, bytearray()
        async for piece in request.stream():
            pieces += piece
            size += len(piece)
            if len(pieces) >= _SPOOL:
                await asyncio.to_thread(body.write, pieces)
                pieces = bytearray()
        if size <= _SMALL:
            return _object(bytes(pieces), images, max_mb, levels, long)
        body.write(pieces)

        def read() -> dict[str, Any]:
            body.seek(0)
            return _object(body.read(), images, max_mb, levels, long)

        return await in_turn(read)


def _object(
    body: bytes, images: Collection[str], max_mb: float, levels: int = 1, longest: int = _LONG
) -> dict[str, Any]:
    text, long = _without_long_strings(body, longest)
    if len(text) > _MAX_TEXT:
        raise TooLarge(f"The JSON has over {_MAX_TEXT >> 20} MB besides its images.", param="body")
    try:
        fields = json.loads(text.decode("utf-8-sig"), parse_int=_whole_number)
    except (ValueError, RecursionError):
        raise InvalidInput(
            "The body is not valid JSON; send a JSON object or a multipart form.", param="body"
        ) from None
    if not isinstance(fields, dict):
        raise InvalidInput(f"The body must be a JSON object; got a {type(fields).__name__}.", param="body")
    if long:
        images_of = _LongStrings(body, long, images, max_mb, levels, longest)
        fields = {name: images_of.fill(name, value, levels) for name, value in fields.items()}
    if long:
        raise TooLarge(f"The JSON has a text of over {longest >> 10:,} KB that is no field's.", param="body")
    return fields


@dataclass(frozen=True)
class _LongStrings:
    """The long strings of a body; see `read_json` for most of it.

    :param found: their positions by their placeholders. Those that are filled in are removed.
    """

    body: bytes
    found: dict[str, tuple[int, int]]
    images: Collection[str]
    max_mb: float
    levels: int
    longest: int

    def fill(self, name: str, value: Any, left: int) -> Any:
        """Return a value with images in place of placeholders.

        :param left: levels of lists and objects that may be looked into.
        """
        if isinstance(value, list) and left:
            return [self.fill(name, one, left - 1) for one in value]
        if isinstance(value, dict) and left and self.levels > 1:
            return {inner: self.fill(inner, one, left - 1) for inner, one in value.items()}
        if not isinstance(value, str) or value not in self.found:
            return value
        if name not in self.images:
            raise TooLarge(f"{name[:80]!r} must be text of at most {self.longest >> 10:,} KB.", param=name[:80])
        start, end = self.found.pop(value)
        return decoded(_unescaped(self.body, start, end), name, self.max_mb)


def _whole_number(digits: str) -> int:
    """Parse an integer. Python reads at most 4,300 digits; with 1,000 of them it is out of every range as well."""
    return int(digits[:1000])


def _without_long_strings(body: bytes, longest: int) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the text with a short placeholder for every long string, and the position of each by its placeholder."""
    if len(body) <= longest:
        return body, {}
    token, long, pieces, copied, at = secrets.token_hex(8), dict[str, tuple[int, int]](), list[bytes](), 0, 0
    while (start := body.find(b'"', at) + 1) and (end := _closing(body, start)) >= 0:
        if end - start > longest:
            name = f"{token}-{len(long)}"
            long[name] = (start, end)
            pieces += [body[copied:start], name.encode()]
            copied = end
        at = end + 1
    return b"".join([*pieces, body[copied:]]), long


def _closing(body: bytes, at: int) -> int:
    """Return the end of the string that began before `at`; -1 if it does not end."""
    while (end := body.find(b'"', at)) >= 0:
        before = end
        while body[before - 1] == 0x5C and before > at:
            before -= 1
        if (end - before) % 2 == 0:
            return end
        at = end + 1
    return -1


def _unescaped(body: bytes, start: int, end: int) -> Iterator[bytes]:
    """Yield a JSON string in unescaped pieces."""
    while start < end:
        stop = min(end, start + _PIECE)
        if stop < end:  # not within an escape
            last = body.rfind(b"\\", stop - _LONGEST_ESCAPE, stop)
            stop = last if last > start else stop
        piece = body[start:stop]
        if b"\\" in piece:
            try:
                piece = json.loads(b'"' + piece + b'"').encode("ascii", "replace")
            except ValueError:
                piece = b"\\"  # which is no base64
        yield piece
        start = stop


def decoded(pieces: Iterable[bytes], param: str, max_mb: float) -> bytes:
    """Decode base64, with or without a data URL around it.

    :raises InvalidInput, TooLarge: it is no base64; the bytes are over `max_mb`.
    """
    data, head, start, held, ended = io.BytesIO(), True, b"", b"", False
    for piece in pieces:
        if head and piece[: len(_DATA_URL)].lower() == _DATA_URL:
            kind, comma, piece = _cut(piece)
            if not comma or not kind.lower().endswith(b";base64"):
                raise InvalidInput(
                    f"{param} must be data:image/...;base64,...; got {kind[:40].decode('ascii', 'replace')!r}.",
                    param=param,
                )
        if head:
            head, start = False, piece[:20]
        piece = held + piece.translate(None, _SPACE)
        whole = len(piece) - len(piece) % 4
        held, piece = piece[whole:], piece[:whole]
        try:
            if ended and piece:
                raise ValueError
            data.write(base64.b64decode(piece, validate=True))
        except (binascii.Error, ValueError):
            raise _no_base64(param, start) from None
        ended = ended or piece.endswith(b"=")
        if data.tell() > max_mb * (1 << 20):
            raise TooLarge(f"The file is over the limit of {max_mb:g} MB.", param=param)
    if held:
        raise _no_base64(param, start)
    return data.getvalue()


def _cut(piece: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a data URL into its head, its comma, and the rest."""
    head, comma, _ = piece[:_HEAD].partition(b",")
    return head, comma, piece[len(head) + 1 :]


def _no_base64(param: str, came: bytes) -> InvalidInput:
    return InvalidInput(f"{param} must be base64 text; got {came[:20].decode('ascii', 'replace')!r}.", param=param)
