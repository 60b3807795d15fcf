"""BMP: a header of one of several sizes, then rows. The file size in the header is often wrong."""

from __future__ import annotations

import struct

from darkroom.containers.source import Source
from darkroom.errors import NotAnImage

_UNCOMPRESSED = (0, 3, 6)


def read(data: bytes, whole: bool) -> Source:
    """See `darkroom.containers.read`."""
    if len(data) < 26:
        raise NotAnImage("The BMP is cut short: it ends in its header.", param="file")
    end = _end(data)
    return Source(kind="BMP", data=data, end=None if end is None else min(end, len(data)))


def _end(data: bytes) -> int | None:
    """The end of the rows: from their number and width, or for compressed ones from the size in the header."""
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header >= 40 and len(data) >= 38:
        width, height, _, depth, compression, size = struct.unpack_from("<iiHHII", data, 18)
        if compression not in _UNCOMPRESSED:
            return offset + size if size else None
    else:
        return None
    row = (abs(width) * depth + 31) // 32 * 4
    return int(offset + row * abs(height))
