"""Image files as containers: the parts of a file that its pixels need, and its metadata.

`read` makes a copy of a file that has nothing but what the decoder needs, and takes the metadata out that the service
uses: colour profile, orientation, transparent colour. So metadata that is broken or unknown never costs the image, and
nothing that lies behind the end of an image gets anywhere.
"""

from __future__ import annotations

import re

from darkroom.containers import bmp, exif, gif, jpeg, png, tiff, webp
from darkroom.containers.source import Source as Source
from darkroom.errors import NotAnImage, TooLarge

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:>|=\"|=')([1-8])\b")
_READERS = {
    "PNG": png.read,
    "JPEG": jpeg.read,
    "WEBP": webp.read,
    "BMP": bmp.read,
    "TIFF": tiff.read,
    "GIF": gif.read,
}


def kind_of(data: bytes) -> str | None:
    """Pillow's name of the format, from the first bytes; None for formats that are not read here."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    return "BMP" if data.startswith(b"BM") else None


def read(data: bytes, *, param: str = "file", whole: bool = True) -> Source:
    """Take a file apart.

    :param whole: False reads the header and the metadata only: pixel data is not checked, and `Source.end` may be None
        although the format has an end.
    :raises NotAnImage: not an image of a format that is read, or its structure is damaged or truncated.
    :raises TooLarge: more parts than any image needs, or a text or a profile that is a decompression bomb.
    """
    kind = kind_of(data)
    if kind is None:
        raise NotAnImage(
            "This is not an image that can be read; send a PNG, JPEG, WebP, BMP, TIFF or GIF.",
            param=param,
        )
    try:
        return _READERS[kind](data, whole)
    except (NotAnImage, TooLarge) as error:
        error.param = param
        raise


def orientation(source: Source) -> int:
    """The orientation, 1..8 as in EXIF; 1 (upright) if the metadata does not have a valid one."""
    found = exif.orientation(source.exif or b"")
    if found is not None:
        return found
    match = _XMP_ORIENTATION.search(source.xmp or b"")
    return int(match[1]) if match else 1
