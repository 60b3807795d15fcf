"""Image files that are odd and yet whole: every one has to be read. Built here, byte by byte where it takes that."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.pictures import encoded, photo

Order = Literal["<", ">"]
SIDE = 24


def small() -> Image.Image:
    """A piece of the photo with some colours in it."""
    image = photo(200, 100, SIDE + 16, SIDE)
    image.info.clear()  # its colour profile
    return image


def png_chunk(kind: bytes, body: bytes, *, wrong: bool = False) -> bytes:
    """A chunk; `wrong` damages its checksum."""
    checksum = zlib.crc32(kind + body) ^ (0xFFFF if wrong else 0)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png_with(*chunks: bytes, png: bytes | None = None) -> bytes:
    """A PNG with these chunks behind its header."""
    png = encoded(small()) if png is None else png
    return png[:33] + b"".join(chunks) + png[33:]


def raw_png(samples: NDArray[np.uint16], *, depth: int, transparent: bytes = b"") -> bytes:
    """A PNG of grey (h, w) or RGB (h, w, 3) samples of `depth` bits."""
    height, width = samples.shape[:2]
    colour = 0 if samples.ndim == 2 else 2
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples]
    else:
        bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    key = png_chunk(b"tRNS", transparent) if transparent else b""
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + key + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def tiff(samples: NDArray[np.uint32], *, depth: int, order: Order, photometric: int, strips: int = 1) -> bytes:
    """A grey TIFF without compression."""
    height, width = samples.shape
    if depth == 1:
        rows = [np.packbits(row.astype(np.uint8)).tobytes() for row in samples]
    elif depth == 4:
        rows = [((row[0::2] << 4) | row[1::2]).astype(np.uint8).tobytes() for row in samples]
    else:
        rows = [row.astype(f"{order}u{depth // 8}").tobytes() for row in samples]
    per_strip = -(-height // strips)
    pieces = [b"".join(rows[top : top + per_strip]) for top in range(0, height, per_strip)]
    offsets, at = [], 8
    for piece in pieces:
        offsets.append(at)
        at += len(piece)
    lists = struct.pack(f"{order}{2 * len(pieces)}I", *offsets, *(len(piece) for piece in pieces))
    many = len(pieces) > 1
    entries = [(256, width), (257, height), (258, depth), (259, 1), (262, photometric),
               (273, at if many else offsets[0], len(pieces)), (277, 1), (278, per_strip),
               (279, at + 4 * len(pieces) if many else len(pieces[0]), len(pieces))]  # fmt: skip
    directory = struct.pack(order + "H", len(entries))
    for tag, value, *count in entries:
        directory += struct.pack(order + "HHII", tag, 4, count[0] if count else 1, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at + len(lists))
    return head + b"".join(pieces) + lists + directory + bytes(4)


def exif(orientation: int | None = None, *, order: Order = "<", comment: bytes = b"", kind: int = 3) -> bytes:
    """EXIF with an orientation and a UserComment."""
    entries = []
    if orientation is not None:
        letter = {1: "Bxxx", 3: "Hxx", 4: "I", 2: "3sx", 12: "I"}[kind]
        value = str(orientation).encode() if kind == 2 else orientation
        entries.append(struct.pack(f"{order}HHI{letter}", 0x0112, kind, 1, value))
    if comment:
        entries.append(struct.pack(order + "HHII", 0x8769, 4, 1, 8 + 2 + 12 * (len(entries) + 1) + 4))
    main = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    if not comment:
        return head + main
    at = len(head + main) + 2 + 12 + 4
    return head + main + struct.pack(order + "HHHIII", 1, 0x9286, 7, len(comment), at, 0) + comment


def jpeg_with(*segments: tuple[int, bytes], image: Image.Image | None = None, **options: object) -> bytes:
    """A JPEG with these segments (marker, body) behind its beginning."""
    data = encoded(image or small(), "JPEG", **options)
    inserted = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + inserted + data[2:]


def webp_with(*chunks: tuple[bytes, bytes], lossless: bool = True) -> bytes:
    """A WebP in the extended layout with these chunks in front of its pixels or, for EXIF and XMP, behind them."""
    plain = encoded(small(), "WEBP", lossless=lossless)
    width, height = small().size
    flags = sum({b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}.get(kind, 0) for kind, _ in chunks)
    extended = struct.pack("<4sIB3x", b"VP8X", 10, flags) + (width - 1).to_bytes(3, "little")
    extended += (height - 1).to_bytes(3, "little")
    made = [(kind, kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)) for kind, body in chunks]
    front = b"".join(chunk for kind, chunk in made if kind == b"ICCP")
    behind = b"".join(chunk for kind, chunk in made if kind != b"ICCP")
    body = b"WEBP" + extended + front + plain[12:] + behind
    return b"RIFF" + struct.pack("<I", len(body)) + body


def profile(size: int) -> bytes:
    """An sRGB profile, filled up to `size` bytes; its own size where that is larger."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made.extend(bytes(max(0, size - len(made))))
    made[:4] = struct.pack(">I", len(made))
    made[24:36] = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)  # the time it was made at
    return bytes(made)


def noise(size: int) -> bytes:
    """Bytes that no program compresses or guesses."""
    return np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()


_TAILS: dict[str, Callable[[], bytes]] = {
    "image": lambda: encoded(photo(0, 0, 30, 30)),
    "jpeg": lambda: encoded(photo(0, 0, 30, 30), "JPEG"),
    "noise": lambda: noise(5000),
    "second_end": lambda: png_chunk(b"IEND", b""),
    "piece_of_idat": lambda: noise(64) + png_chunk(b"IDAT", noise(700)) + png_chunk(b"IEND", b""),
    "zeros": lambda: bytes(512),
    "text": lambda: b"Samsung trailer SEFT \x01\x02",
}
BROKEN_EXIF = {
    "no_tiff_header": b"\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "empty": b"",
    "one_byte": b"I",
    "header_only": b"II*\0\x08\0\0\0",
    "far_directory": b"MM\0*\xff\xff\xff\xf0",
    "cut": exif(1, comment=b"ASCII\0\0\0hello")[:31],
    "garbage": b"II*\0\x08\0\0\0" + noise(300),
    "loop": b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "orientation_9": exif(9),
    "orientation_of_text": exif(6, kind=2),
    "orientation_of_float": exif(6, kind=12)[:20],
    "many_entries": b"II*\0\x08\0\0\0\xff\xff" + noise(2000),
}


def odd_files() -> dict[str, bytes]:
    """Name -> bytes. All are read, with the pixels of `small()` as near as the format has them."""
    image = small()
    bmp = encoded(image, "BMP")
    found = {
        "crc_text.png": png_with(png_chunk(b"tEXt", b"Comment\0hello", wrong=True)),
        "crc_several.png": png_with(
            *(
                png_chunk(kind, b"x\0yzzzzzz", wrong=True)
                for kind in (
                    b"tEXt",
                    b"zTXt",
                    b"iTXt",
                    b"gAMA",
                    b"pHYs",
                    b"tIME",
                    b"iCCP",
                    b"eXIf",
                    b"sRGB",
                    b"tRNS",
                    b"cHRM",
                    b"bKGD",
                    b"vpAg",
                    b"acTL",
                )
            )
        ),
        "short_chunks.png": png_with(
            *(
                png_chunk(kind, b"\1")
                for kind in (
                    b"gAMA",
                    b"pHYs",
                    b"tIME",
                    b"iCCP",
                    b"eXIf",
                    b"sRGB",
                    b"tRNS",
                    b"cHRM",
                    b"acTL",
                    b"fcTL",
                    b"zTXt",
                    b"iTXt",
                )
            )
        ),
        "damaged_text.png": png_with(png_chunk(b"zTXt", b"k\0\0no deflate"), png_chunk(b"iTXt", b"k\0\1\0\0\0no")),
        "damaged_profile.png": png_with(png_chunk(b"iCCP", b"icc\0\0no deflate")),
        "large_profile.png": png_with(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile(1_300_000)))),
        "damaged_xmp.png": png_with(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta \xff\xfe")),
        "size_zero.bmp": bmp[:2] + bytes(4) + bmp[6:],
        "size_small.bmp": bmp[:2] + struct.pack("<I", 62) + bmp[6:],
        "size_large.bmp": bmp[:2] + struct.pack("<I", 2**31) + bmp[6:],
        "size_of_pixels.bmp": bmp[:34] + struct.pack("<I", 7) + bmp[38:],
        "size_small.webp": _with_riff_size(encoded(image, "WEBP", lossless=True), 20),
        "size_large.webp": _with_riff_size(encoded(image, "WEBP", lossless=True), 10**6),
        "exif_cut.webp": webp_with((b"EXIF", b"Exif\0\0II*\0")),
        "garbage.webp": webp_with((b"ICCP", noise(40)), (b"EXIF", noise(99)), (b"XMP ", noise(7)), (b"ABCD", b"x")),
        "icc_without_number.jpg": jpeg_with((0xE2, b"ICC_PROFILE\0"), quality=95),
        "icc_missing_piece.jpg": jpeg_with((0xE2, b"ICC_PROFILE\0\1\3" + noise(50)), quality=95),
        "odd_segments.jpg": jpeg_with(
            (0xE0, b"JFIF"),
            (0xE0, b""),
            (0xEE, b"Adobe"),
            (0xE2, b"MPF\0garbage"),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff<"),
            (0xED, b"Photoshop 3.0\x008BIM\1"),
            (0xFE, b"\xff\xfe"),
            quality=95,
        ),
    }
    for name, make in _TAILS.items():
        for format, ending in (("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp"), ("GIF", "gif"), ("JPEG", "jpg")):
            options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
            found[f"tail_{name}.{ending}"] = encoded(image, format, **options) + make()
    for name, broken in BROKEN_EXIF.items():
        found[f"exif_{name}.png"] = png_with(png_chunk(b"eXIf", broken))
        found[f"exif_{name}.jpg"] = jpeg_with((0xE1, b"Exif\0\0" + broken), quality=95)
        found[f"exif_{name}.webp"] = webp_with((b"EXIF", broken))
        found[f"exif_{name}.tif"] = _tiff_with_exif(broken)
    for name, data in jpegs().items():
        found[f"no_end_{name}.jpg"] = data[:-2]
        found[f"half_end_{name}.jpg"] = data[:-1]
        found[f"zeros_for_end_{name}.jpg"] = data[:-2] + bytes(300)
    return found


def jpegs() -> dict[str, bytes]:
    """Whole JPEGs of every common kind."""
    image = small()
    return {
        "baseline": encoded(image, "JPEG", quality=95),
        "coarse": encoded(image, "JPEG", quality=20),
        "full_chroma": encoded(image, "JPEG", quality=95, subsampling=0),
        "restarts": encoded(image, "JPEG", quality=95, restart_marker_blocks=1),
        "optimised": encoded(image, "JPEG", quality=90, optimize=True),
        "progressive": encoded(image, "JPEG", quality=95, progressive=True),
        "progressive_grey": encoded(image.convert("L"), "JPEG", quality=95, progressive=True),
        "grey": encoded(image.convert("L"), "JPEG", quality=95),
        "flat": encoded(Image.new("RGB", image.size, (255, 255, 255)), "JPEG", quality=95),
    }


def _with_riff_size(data: bytes, size: int) -> bytes:
    return data[:4] + struct.pack("<I", size) + data[8:]


def _tiff_with_exif(broken: bytes) -> bytes:
    """A TIFF whose EXIF, GPS and XMP entries lead to these bytes, or outside of the file."""
    target = io.BytesIO()
    small().save(target, "TIFF")
    data = target.getvalue()
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    old = data[first + 2 : first + 2 + 12 * count]
    at = len(data) + len(data) % 2
    new = [old[i * 12 : i * 12 + 12] for i in range(count)]
    new += [struct.pack("<HHII", 0x8769, 4, 1, at), struct.pack("<HHII", 0x8825, 4, 1, 2**32 - 3),
            struct.pack("<HHII", 700, 7, 10**6, at), struct.pack("<HHII", 34675, 4, 3, at),
            struct.pack("<HHII", 0x0132, 2, 2**31, at)]  # fmt: skip
    new.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(new)) + b"".join(new) + bytes(4)
    body = data.ljust(at, b"\0") + broken + b"\0" * (len(broken) % 2)
    return body[:4] + struct.pack("<I", len(body)) + body[8:] + directory
