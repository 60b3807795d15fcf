"""PNG: chunks with a checksum each (https://www.w3.org/TR/png-3/, 5)."""

from __future__ import annotations

import binascii
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from darkroom.containers.source import MAX_PIECES, MAX_PROFILE_BYTES, Source
from darkroom.errors import NotAnImage, TooLarge

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 1 << 20
"""Maximum decompressed size of one text chunk or colour profile. Pillow has the same limit."""
_MAX_TEXTS_BYTES = 64 << 20
"""Maximum decompressed size of all compressed texts of a file together."""

_NAME = re.compile(rb"[A-Za-z]{4}")
_NEEDED = (b"IHDR", b"PLTE", b"IDAT")
_PALETTE = 3
_KEY_VALUES = {0: 1, 2: 3}  # numbers of a transparent colour, by colour type
_XMP = b"XML:com.adobe.xmp"
_RAW_EXIF = b"Raw profile type exif"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk of a file; its data is not copied.

    :param start: position of the chunk in the file: length, name, body and checksum.
    :param size: size of the body.
    :param cut: whether the file ends inside the chunk.
    """

    file: bytes
    start: int
    size: int
    kind: bytes
    cut: bool = False

    @property
    def body(self) -> bytes:
        return self.file[self.start + 8 : self.end - 4]

    @property
    def end(self) -> int:
        return self.start + 12 + self.size

    def sound(self) -> bool:
        """Whether the checksum is right."""
        covered = memoryview(self.file)[self.start + 4 : self.end - 4]
        return bool(zlib.crc32(covered) == struct.unpack_from(">I", self.file, self.end - 4)[0])


def chunks(data: bytes, *, cut: bool = False) -> Iterator[Chunk]:
    """Yield every chunk up to the last one, IEND.

    :param cut: end without an error if the file is truncated; the last chunk may be `Chunk.cut`.
    :raises NotAnImage: truncated before the last chunk.
    :raises TooLarge: more than MAX_PIECES chunks.
    """
    if not data.startswith(SIGNATURE):
        raise NotAnImage("This is not a PNG.", param="file")
    at, kind, count = len(SIGNATURE), b"", 0
    while kind != b"IEND":
        count += 1
        if count > MAX_PIECES:
            raise TooLarge(f"The PNG has more than {MAX_PIECES:,} chunks.", param="file")
        size, kind = struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (0, b"")
        if at + 12 + size > len(data):
            if cut:
                if at + 8 <= len(data):
                    size, kind = struct.unpack_from(">I4s", data, at)
                    yield Chunk(file=data, start=at, size=size, kind=kind, cut=True)
                return
            raise NotAnImage("The PNG is cut short.", param="file")
        if not _NAME.fullmatch(kind):
            raise NotAnImage(f"The PNG is damaged: {kind!r} is not a chunk name.", param="file")
        yield Chunk(file=data, start=at, size=size, kind=kind)
        at += 12 + size


def inflated(data: bytes, limit: int) -> bytes:
    """Decompress data, up to one byte more than `limit`.

    :raises zlib.error: the data is damaged.
    """
    return zlib.decompressobj().decompress(data, limit + 1)


def compressed_part(kind: bytes, body: bytes) -> bytes | None:
    """The compressed part of a chunk's body; None if there is none."""
    _, _, rest = body.partition(b"\0")
    if kind in (b"zTXt", b"iCCP"):
        return rest[1:]
    if kind == b"iTXt" and rest[:1] == b"\1":
        _, _, rest = rest[2:].partition(b"\0")
        return rest.partition(b"\0")[2]
    return None


def read(data: bytes, whole: bool) -> Source:
    """See `darkroom.containers.read`. A file that is truncated after its first pixels is read up to that point: the
    decoder then finds out whether all pixels are there."""
    kept, end = [SIGNATURE], None
    other: dict[bytes, bytes] = {}
    texts: list[Chunk] = []
    for chunk in chunks(data, cut=True):
        if not whole and chunk.kind == b"IDAT":  # for the header it is enough that there are pixels
            kept[2:] = [part for part in kept[2:] if part[4:8] != b"IDAT"] + [make_chunk(b"IDAT", b"")]
            continue
        if chunk.cut:
            break
        if chunk.kind in _NEEDED and not chunk.sound():
            raise NotAnImage(f"The PNG is damaged: its {chunk.kind.decode()} has a wrong checksum.", param="file")
        if chunk.kind in _NEEDED:
            kept.append(data[chunk.start : chunk.end])
        elif chunk.kind == b"IEND":
            end = chunk.end
        elif chunk.kind in (b"zTXt", b"iTXt"):
            texts.append(chunk)
        elif chunk.kind in (b"tRNS", b"iCCP", b"eXIf") and chunk.sound():
            other.setdefault(chunk.kind, chunk.body)
    depth, colour_type = _header(kept)
    exif, xmp = _from_texts(texts)
    transparency = other.get(b"tRNS", b"")
    if colour_type == _PALETTE:
        _add_transparency(kept, transparency)
    return Source(
        kind="PNG",
        data=b"".join([*kept, make_chunk(b"IEND", b"")]),
        end=end,
        exif=other.get(b"eXIf") or exif,
        xmp=xmp,
        icc_profile=_profile(other.get(b"iCCP")),
        key=_key(transparency, depth, colour_type),
        bits=depth,
    )


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Make a chunk with its length and its checksum."""
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))))


def _header(kept: list[bytes]) -> tuple[int, int]:
    """Return depth and colour type, after a check that the file has a header and at least one chunk of pixels."""
    names = [part[4:8] for part in kept[1:]]
    if names[:1] != [b"IHDR"] or len(kept[1]) != 25 or b"IDAT" not in names:
        raise NotAnImage("The PNG is cut short or has no header.", param="file")
    return kept[1][16], kept[1][17]


def _add_transparency(kept: list[bytes], body: bytes) -> None:
    """Insert the transparency of a palette after the palette; values without a colour are left out."""
    at = next((index for index, part in enumerate(kept) if part[4:8] == b"PLTE"), None)
    if at is not None and body:
        kept.insert(at + 1, make_chunk(b"tRNS", body[: (len(kept[at]) - 12) // 3]))


def _key(body: bytes, depth: int, colour_type: int) -> tuple[int, ...] | None:
    """The transparent colour of grey and RGB (11.3.1.1): 16 bits for each value, whatever the depth."""
    count = _KEY_VALUES.get(colour_type)
    if count is None or len(body) != 2 * count:
        return None
    return tuple(value & ((1 << depth) - 1) for value in struct.unpack(f">{count}H", body))


def _profile(body: bytes | None) -> bytes | None:
    try:
        profile = inflated(compressed_part(b"iCCP", body or b"") or b"", MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    if len(profile) > MAX_PROFILE_BYTES:
        raise TooLarge(f"The PNG has a colour profile of more than {MAX_PROFILE_BYTES:,} bytes.", param="file")
    return profile or None


def _from_texts(texts: list[Chunk]) -> tuple[bytes | None, bytes | None]:
    """EXIF, as ImageMagick writes it into a text, and XMP. All compressed texts are checked for bombs."""
    exif = xmp = None
    total = 0
    for chunk in texts:
        if not chunk.sound():
            continue
        body = chunk.body
        packed = compressed_part(chunk.kind, body)
        try:
            text = body if packed is None else inflated(packed, MAX_TEXT_BYTES)
        except zlib.error:
            continue
        total += 0 if packed is None else len(text)
        if (packed is not None and len(text) > MAX_TEXT_BYTES) or total > _MAX_TEXTS_BYTES:
            raise TooLarge(f"The PNG has a text of more than {MAX_TEXT_BYTES:,} bytes.", param="file")
        keyword = body.partition(b"\0")[0]
        if keyword == _XMP:
            xmp = text
        elif keyword == _RAW_EXIF:
            exif = _from_hex(text)
    return exif, xmp


def _from_hex(text: bytes) -> bytes | None:
    """Decode a text of a blank line, "exif", the length, and hexadecimal digits."""
    try:
        return binascii.unhexlify(b"".join(text.split()[2:])).removeprefix(b"Exif\0\0")
    except (binascii.Error, ValueError):
        return None
