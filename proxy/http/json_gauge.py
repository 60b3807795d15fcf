"""Measures how costly a JSON text is to parse, piece by piece, before it is parsed."""

from __future__ import annotations

from darkroom.errors import DarkroomError, InvalidInput, TooLarge

MAX_ELEMENTS = 100_000
_MAX_STRINGS = 100_000
_MAX_QUOTES_ESCAPED = 100_000
_MAX_ESCAPES, _ESCAPES_SHARE = 1_000_000, 10
"""Number of escapes above which a body is refused, if they are also more than a tenth of its bytes. An image in
base64 never has that many."""
_MAX_OUTSIDE = 1 << 20
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[{,:"))


class JsonGauge:
    """Counts what the parser would have to build. Costs about a nanosecond a byte, images in base64 less.

    A megabyte outside of strings is enough for every request here, and keeps out numbers of a million digits.
    """

    def __init__(self) -> None:
        self._held = b""
        self._in_string = False
        self._elements = 0
        self._quotes = 0
        self._escaped = 0
        self._escapes = self._bytes = 0
        self._outside = 0

    def feed(self, piece: bytes) -> DarkroomError | None:
        """Count the next piece; return the error of the text so far, if there is one."""
        if b"\0" in piece:  # UTF-16 and UTF-32; no JSON in UTF-8 has one
            return InvalidInput("The body must be JSON in UTF-8; it has a NUL.", param="body")
        self._bytes += len(piece)
        self._escapes += piece.count(b"\\")
        piece = self._without_escapes(self._held + piece)
        self._quotes += piece.count(b'"')
        if self._quotes > 2 * _MAX_STRINGS:
            return TooLarge(f"The JSON has over {_MAX_STRINGS:,} strings.", param="body")
        if self._escapes > max(_MAX_ESCAPES, self._bytes // _ESCAPES_SHARE):
            return TooLarge(f"The JSON has over {_MAX_ESCAPES:,} escapes.", param="body")
        if self._escaped > _MAX_QUOTES_ESCAPED:
            return TooLarge(
                f"The JSON has over {_MAX_QUOTES_ESCAPED:,} quotation marks and backslashes in strings.", param="body"
            )
        parts = piece.split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._outside += len(outside)
        if self._outside > _MAX_OUTSIDE:
            return TooLarge(f"The JSON has over {_MAX_OUTSIDE >> 20} MB outside of strings.", param="body")
        self._elements += len(outside.translate(None, _NOT_STRUCTURE))
        if self._elements > MAX_ELEMENTS:
            return TooLarge(f"The JSON has over {MAX_ELEMENTS:,} elements.", param="body")
        return None

    def _without_escapes(self, piece: bytes) -> bytes:
        """Remove escapes that would hide a quotation mark, and keep back a backslash at the end."""
        self._held = b""
        if b"\\" not in piece:
            return piece
        plain = piece.replace(b"\\\\", b"")
        if plain.endswith(b"\\"):
            plain, self._held = plain[:-1], b"\\"
        bare = plain.replace(b'\\"', b"")
        self._escaped += (len(piece) - len(bare)) // 2
        return bare
