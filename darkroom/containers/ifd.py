"""Directories of TIFF files, and of EXIF, which is one (TIFF 6.0, section 2; BigTIFF has wider numbers)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""The size of a value in bytes, by its type."""
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_MAX_ENTRIES = 4096


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The encoding of numbers in a file.

    :param big: whether the file is a BigTIFF.
    """

    order: Literal["<", ">"]
    big: bool
    first: int

    @property
    def entry_size(self) -> int:
        return 20 if self.big else 12

    @property
    def count_size(self) -> int:
        """The size in bytes of the number of entries in a directory."""
        return 8 if self.big else 2

    @property
    def offset_size(self) -> int:
        return 8 if self.big else 4

    def offset(self, value: int) -> bytes:
        """Encode an offset as in the file."""
        return struct.pack(self.order + ("Q" if self.big else "I"), value)

    def count(self, value: int) -> bytes:
        """Encode the number of entries in a directory as in the file."""
        return struct.pack(self.order + ("Q" if self.big else "H"), value)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of a directory.

    :param raw: the bytes of the entry in the file.
    """

    layout: Layout
    tag: int
    kind: int
    count: int
    raw: bytes

    def value(self, data: bytes) -> bytes:
        """The bytes of its values; b"" if they are outside the file or of an unknown type."""
        size = _SIZES.get(self.kind, 0) * self.count
        field = self.raw[-self.layout.offset_size :]
        if size <= len(field):
            return field[:size]
        at = int.from_bytes(field, "little" if self.layout.order == "<" else "big")
        return data[at : at + size] if at + size <= len(data) else b""

    def whole(self, data: bytes) -> int | None:
        """Its first value, if it is an unsigned whole number."""
        letter, value = _WHOLE.get(self.kind), self.value(data)
        if letter is None or not value:
            return None
        return int(struct.unpack_from(self.layout.order + letter, value)[0])


def layout(data: bytes) -> Layout | None:
    """Read the header; None if there is none."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    magic = data[2:4] if order == "<" else data[3:1:-1]
    if data[:2] not in (b"II", b"MM") or magic not in (b"*\0", b"+\0") or len(data) < 16 - 8 * (magic == b"*\0"):
        return None
    big = magic == b"+\0"
    first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    return Layout(order=order, big=big, first=int(first))


def entries(data: bytes, form: Layout, at: int) -> dict[int, Entry]:
    """The entries of the directory at `at`, by their tags; the first one of each tag. Entries outside the file are left
    out, and so are those above a limit on their number."""
    found: dict[int, Entry] = {}
    if not 0 < at <= len(data) - form.count_size:
        return found
    count = struct.unpack_from(form.order + ("Q" if form.big else "H"), data, at)[0]
    at += form.count_size
    for _ in range(min(int(count), _MAX_ENTRIES)):
        raw = data[at : at + form.entry_size]
        if len(raw) < form.entry_size:
            break
        tag, kind, number = struct.unpack_from(form.order + ("HHQ" if form.big else "HHI"), raw)
        found.setdefault(tag, Entry(layout=form, tag=tag, kind=kind, count=number, raw=raw))
        at += form.entry_size
    return found
