"""WebP: RIFF chunks (RFC 9649)."""

from __future__ import annotations

import struct

from darkroom.containers.source import MAX_PIECES, Source
from darkroom.errors import NotAnImage, TooLarge

_NEEDED = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_METADATA = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
"""Chunks that VP8X announces, each with its flag."""


def read(data: bytes, whole: bool) -> Source:
    """See `darkroom.containers.read`. The sizes of the chunks are used, not the size of the file in its header."""
    kept: list[bytes] = []
    found: dict[bytes, bytes] = {}
    at, pieces, declared = 12, 0, 8 + int(struct.unpack_from("<I", data, 4)[0])
    while at + 8 <= len(data) and (at < declared or not _has_pixels(kept)):
        pieces += 1
        if pieces > MAX_PIECES:
            raise TooLarge(f"The WebP has more than {MAX_PIECES:,} chunks.", param="file")
        kind, size = data[at : at + 4], int(struct.unpack_from("<I", data, at + 4)[0])
        end = at + 8 + size
        if kind in _NEEDED:
            if end > len(data):
                raise NotAnImage("The WebP is cut short.", param="file")
            kept.append(data[at:end] + b"\0" * (size % 2))
        elif kind in _METADATA and end <= len(data):
            found.setdefault(kind, data[at + 8 : end])
        at = end + size % 2
    if not _has_pixels(kept):
        raise NotAnImage("The WebP is cut short: it has no pixels.", param="file")
    body = b"WEBP" + b"".join(_quiet(part) for part in kept)
    return Source(
        kind="WEBP",
        data=b"RIFF" + struct.pack("<I", len(body)) + body,
        end=min(at, len(data)),
        exif=(found.get(b"EXIF") or b"").removeprefix(b"Exif\0\0") or None,
        xmp=found.get(b"XMP "),
        icc_profile=found.get(b"ICCP"),
    )


def _has_pixels(kept: list[bytes]) -> bool:
    return any(part[:4] in (b"VP8 ", b"VP8L", b"ANMF") for part in kept)


def _quiet(part: bytes) -> bytes:
    """Return VP8X without the flags of metadata, which are left out."""
    if part[:4] != b"VP8X" or len(part) < 9:
        return part
    flags = part[8] & ~sum(_METADATA.values())
    return part[:8] + bytes([flags]) + part[9:]
