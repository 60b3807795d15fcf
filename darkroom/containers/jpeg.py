"""JPEG: marker segments, then scans (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from darkroom.containers.source import MAX_PIECES, Source
from darkroom.errors import NotAnImage, TooLarge

EXIF = b"Exif\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_END = b"\xff\xd9"
_MAX_SCANS = 128
"""Encoders write about ten; each is a pass over all pixels."""
# A marker inside coded data, where 0xFF00 is a value, 0xFFD0 to 0xFFD7 are restarts, and 0xFFFF is padding.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


@dataclass(kw_only=True)
class _Walk:
    """What has been read of a file so far.

    :param kept: slices that the decoder needs.
    :param frame: the marker that began the frame; 0 before it.
    :param coded: by component, the bits of each coefficient that no scan has brought yet; of those that no scan has
        brought at all, none are here.
    """

    kept: list[bytes] = field(default_factory=list)
    exif: list[bytes] = field(default_factory=list)
    xmp: bytes | None = None
    profile: dict[int, bytes] = field(default_factory=dict)
    profile_pieces: int = 0
    pieces: int = 0
    scans: int = 0
    frame: int = 0
    components: bytes = b""
    coded: dict[int, dict[int, int]] = field(default_factory=dict)

    @property
    def all_scans(self) -> bool:
        """Whether the scans contain every bit of every coefficient of every component."""
        wanted = 64 if self.frame in _PROGRESSIVE else 1
        return bool(self.components) and all(
            len(seen) == wanted and not any(seen.values())
            for seen in (self.coded.get(component, {}) for component in self.components)
        )


def read(data: bytes, whole: bool) -> Source:
    """See `darkroom.containers.read`."""
    walk = _Walk(kept=[data[:2]])
    at = _segments(data, 2, walk)
    if at is None:
        raise NotAnImage("The JPEG is cut short: it ends before its pixels.", param="file")
    if not whole:
        walk.kept.append(data[at:])
        return _source(walk, None)
    end = _scans(data, at, walk)
    if data[end : end + 2] == _END:
        walk.kept.append(data[at : end + 2])
        return _source(walk, end + 2)
    if not walk.all_scans:
        raise NotAnImage("The JPEG is cut short: it ends before its last scan.", param="file")
    walk.kept += [without_padding(data[at:end]), _END]
    return _source(walk, end, unfinished=True)


def without_padding(coded: bytes) -> bytes:
    """Return coded data without zeros after its end, and without an incomplete marker."""
    stripped = coded.rstrip(b"\0")
    if stripped.endswith(b"\xff") and len(stripped) < len(coded):
        return coded[: len(stripped) + 1]  # 0xFF00 is a value of 0xFF
    return stripped.rstrip(b"\xff")


def _source(walk: _Walk, end: int | None, *, unfinished: bool = False) -> Source:
    whole_profile = len(walk.profile) == walk.profile_pieces and all(
        number + 1 in walk.profile for number in range(walk.profile_pieces)
    )
    profile = b"".join(walk.profile[number] for number in sorted(walk.profile)) if whole_profile else b""
    return Source(
        kind="JPEG",
        data=b"".join(walk.kept),
        end=end,
        exif=b"".join(walk.exif) or None,
        xmp=walk.xmp,
        icc_profile=profile or None,
        unfinished=unfinished,
    )


def _segments(data: bytes, at: int, walk: _Walk) -> int | None:
    """Read the segments from `at` to the marker of a scan or of the end; returns its position, or None if there is
    none. Bytes between segments are left out."""
    while True:
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            return None
        at, marker = found.start(), data[found.start() + 1]
        if marker in (_SOS, _EOI, _SOI):
            return at
        walk.pieces += 1
        if walk.pieces > MAX_PIECES:
            raise TooLarge(f"The JPEG has more than {MAX_PIECES:,} segments.", param="file")
        end = _segment_end(data, at)
        if end is None:
            return None
        if _needed(marker, data[at + 4 : end], walk):
            walk.kept.append(data[at:end])
        at = end


def _segment_end(data: bytes, at: int) -> int | None:
    """Return the end of the segment whose marker is at `at`; None if it is cut short."""
    if at + 4 > len(data):
        return None
    end = at + 2 + max(2, int(struct.unpack_from(">H", data, at + 2)[0]))
    return end if end <= len(data) else None


def _needed(marker: int, body: bytes, walk: _Walk) -> bool:
    """Record the content of a segment; returns whether the decoder needs it."""
    if marker in _FRAMES and len(body) > 6 and not walk.frame:
        walk.frame, walk.components = marker, body[6::3][: body[5]]
    if marker == _APP0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == _APP14:
        return body.startswith(b"Adobe") and len(body) >= 12
    if marker == _APP1 and body.startswith(EXIF):
        walk.exif.append(body[6:])
    elif marker == _APP1 and body.startswith(_XMP):
        walk.xmp = body[len(_XMP) :]
    elif marker == _APP2 and body.startswith(_ICC) and len(body) > len(_ICC) + 2:
        walk.profile.setdefault(body[12], body[14:])
        walk.profile_pieces = body[13]
    return not _APP0 <= marker <= _APP15 and marker != _COM


def _scans(data: bytes, at: int, walk: _Walk) -> int:
    """Read the scans; returns the position of the end marker, or else of the end of the last scan's data."""
    while True:
        if data[at + 1] != _SOS:
            return at
        end = _segment_end(data, at)
        if end is None:
            return at
        walk.scans += 1
        if walk.scans > _MAX_SCANS:
            raise TooLarge(f"The JPEG has more than {_MAX_SCANS} scans.", param="file")
        _note_scan(data[at + 4 : end], walk)
        found = _NEXT_MARKER.search(data, end)
        if found is None:
            return len(data)
        coded_end = found.start()
        # Tables and comments may be between two scans.
        following = _segments(data, coded_end, _Walk(pieces=walk.pieces))
        if following is None:
            return coded_end
        at = following
        if data[at + 1] == _SOI:
            return coded_end


def _note_scan(body: bytes, walk: _Walk) -> None:
    """Record which bits of which coefficients a scan contains (T.81, G.1.1.1)."""
    count = body[0] if body else 0
    if len(body) < 1 + 2 * count + 3:
        return
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    if walk.frame not in _PROGRESSIVE:
        first, last, bits = 0, 0, 0
    for component in body[1 : 1 + 2 * count : 2]:
        walk.coded.setdefault(component, {}).update(dict.fromkeys(range(first, min(last, 63) + 1), bits & 15))
