"""GIF: blocks of sub-blocks of at most 255 bytes (GIF89a)."""

from __future__ import annotations

from darkroom.containers.source import Source
from darkroom.errors import TooLarge

_MAX_BLOCKS = 1 << 20
"""Maximum number of sub-blocks, of 255 bytes each: a file of 267 MB."""
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def read(data: bytes, whole: bool) -> Source:
    """See `darkroom.containers.read`."""
    return Source(kind="GIF", data=data, end=_end(data) if whole else None)


def _colours(flags: int) -> int:
    """The size of a colour table in bytes."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end(data: bytes) -> int | None:
    """Return the position behind the trailer; None if the file is cut short or damaged before it."""
    blocks = 0
    try:
        at = 13 + _colours(data[10])
        while data[at] != _TRAILER:
            if data[at] == _IMAGE:
                at += 10 + _colours(data[at + 9]) + 1
            elif data[at] == _EXTENSION:
                at += 2
            else:
                return None
            while data[at]:
                at += data[at] + 1
                blocks += 1
                if blocks > _MAX_BLOCKS:
                    raise TooLarge(f"The GIF has more than {_MAX_BLOCKS:,} blocks.", param="file")
            at += 1
    except IndexError:
        return None
    return at + 1
