"""TIFF: a directory with the positions of the strips or tiles, and with all other facts (TIFF 6.0)."""

from __future__ import annotations

import struct

from darkroom.containers import ifd
from darkroom.containers.ifd import Layout
from darkroom.containers.source import Source
from darkroom.errors import NotAnImage

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _XMP, _PROFILE = 258, 262, 339, 700, 34675
# Sizes, strips, tiles, compression, colours. Not orientation: that is applied here.
_NEEDED = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317, 320, 322, 323,
           324, 325, 330, 332, 333, 334, 336, 338, 339, 340, 341, 347, *range(512, 533)}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_SHORT = 3
_SIGNED = 2


def read(data: bytes, whole: bool) -> Source:
    """See `darkroom.containers.read`. A new directory with the entries that pixels need is appended to the file; their
    values stay where they are."""
    form = ifd.layout(data)
    found = {} if form is None else ifd.entries(data, form, form.first)
    if form is None or not found:
        raise NotAnImage("The TIFF is cut short or damaged: it has no directory.", param="file")
    kept = {tag: entry.raw for tag, entry in found.items() if tag in _NEEDED}
    inverted = _PHOTOMETRIC in found and found[_PHOTOMETRIC].whole(data) == _WHITE_IS_ZERO
    if inverted:  # Pillow supports this only at some depths and byte orders
        kept[_PHOTOMETRIC] = _short(form, _PHOTOMETRIC, _BLACK_IS_ZERO)
    signed = _SAMPLE_FORMAT in found and found[_SAMPLE_FORMAT].whole(data) == _SIGNED
    bits = found[_BITS].whole(data) if _BITS in found else 1
    if bits == 32 and form.order == ">" and _SAMPLE_FORMAT not in found:
        kept[_SAMPLE_FORMAT] = _short(form, _SAMPLE_FORMAT, _SIGNED)  # Pillow supports only this one in this byte order
    return Source(
        kind="TIFF",
        data=_with_directory(data, form, kept),
        end=None,
        exif=data,  # which is one, with the orientation in it
        xmp=found[_XMP].value(data) if _XMP in found else None,
        icc_profile=found[_PROFILE].value(data) if _PROFILE in found else None,
        bits=None if signed else bits,
        inverted=inverted,
    )


def _short(form: Layout, tag: int, value: int) -> bytes:
    """Make an entry with one number of 16 bits."""
    head = struct.pack(form.order + ("HHQH" if form.big else "HHIH"), tag, _SHORT, 1, value)
    return head.ljust(form.entry_size, b"\0")


def _with_directory(data: bytes, form: Layout, kept: dict[int, bytes]) -> bytes:
    """Return the file with a directory of only these entries, and without further images."""
    at = len(data) + len(data) % 2
    header = 16 if form.big else 8
    head = data[: header - form.offset_size] + form.offset(at)
    directory = [form.count(len(kept)), *(kept[tag] for tag in sorted(kept)), form.offset(0)]
    return b"".join((head, memoryview(data)[header:], b"\0" * (len(data) % 2), *directory))
