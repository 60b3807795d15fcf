"""Files that somebody might send to hurt the service. Every one must be refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import cache

from tests.pictures import encoded, photo


@cache
def hostile_files() -> dict[str, bytes]:
    """Name -> bytes."""
    rgb = photo(0, 0, 64, 64)
    png, jpeg, webp = encoded(rgb), encoded(rgb, "JPEG"), encoded(rgb, "WEBP")
    tiff, gif, bmp = encoded(rgb, "TIFF"), encoded(rgb, "GIF"), encoded(rgb, "BMP")
    return {
        "empty.png": b"",
        "one-byte.png": b"\x89",
        "zeros-100mb.png": bytes(100 << 20),
        "zeros-1mb.jpg": bytes(1 << 20),
        "text.png": b"this is not a picture " * 50,
        "html.png": b"<html><script>alert(1)</script></html>",
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "xml-bomb.svg": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
        "elf.png": b"\x7fELF\x02\x01\x01" + bytes(500),
        "zip.png": _zip(),
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "pdf.jpg": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "signature-only.png": png[:8],
        "header-only.png": png[:33],
        "truncated.png": png[: len(png) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.webp": webp[: len(webp) // 2],
        "truncated.tif": tiff[: len(tiff) // 2],
        "truncated.gif": gif[: len(gif) // 2],
        "truncated.bmp": bmp[: len(bmp) // 2],
        "bomb-65000x65000.png": _png_claiming(65000, 65000),
        "bomb-2g-side.png": _png_claiming(2**31 - 1, 1),
        "bomb.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        "bomb.bmp": bmp[:18] + struct.pack("<ii", 100000, 100000) + bmp[26:],
        "bomb.jpg": _jpeg_claiming(jpeg, 65000, 65000),
        "text-bomb.png": png_with(png, b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20))),
        "icc-bomb.png": png_with(png, b"iCCP", b"k\0\0" + zlib.compress(bytes(64 << 20))),
        "bad-crc.png": png[:40] + bytes([png[40] ^ 255]) + png[41:],
        "zero-size.png": _png_claiming(0, 10),
        "png-and-zip.png": png + _zip(),
        "jpeg-and-zip.jpg": jpeg + _zip(),
        "gifar.gif": gif + _zip(),
        "pdf-in-jpeg.jpg": jpeg[:2] + b"\xff\xfe" + struct.pack(">H", 12) + b"%PDF-1.7\n " + jpeg[2:],
        "png-and-html.png": png + b"<script>alert(document.domain)</script>",
        "webp-and-html.webp": webp + b"<script>alert(1)</script>",
        "loop.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    }


def _zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("evil.class", "payload")
    return target.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def png_with(png: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with one more chunk, behind its header."""
    return png[:33] + _chunk(kind, data) + png[33:]


def _jpeg_claiming(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]
