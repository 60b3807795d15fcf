"""EXIF (2.32): the parts that the service reads and writes. Damaged parts are ignored."""

from __future__ import annotations

import unicodedata

from PIL import ExifTags, Image

from darkroom.containers import ifd
from darkroom.containers.ifd import Entry

LARGEST = 65533
"""Bytes that fit into a JPEG, whose segment's size has 16 bits."""
MAKER_PREFIX = b"darkroom\0"
"""The first bytes of our MakerNotes; the parameters follow as JSON in ASCII."""
COMMENT, MAKER_NOTE = "UserComment", "MakerNote"

_ORIENTATION, _EXIF_DIRECTORY = 0x0112, 0x8769
_TEXTS = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software"}
_COMMENT, _MAKER_NOTE = 0x9286, 0x927C
_PREFIX = 8
"""Bytes of a UserComment that name its encoding."""


def orientation(data: bytes) -> int | None:
    """The orientation, 1..8; None if there is no valid one."""
    entry = _main(data).get(_ORIENTATION)
    value = None if entry is None or entry.count != 1 else entry.whole(data)
    return value if value is not None and 1 <= value <= 8 else None


def texts(data: bytes) -> dict[str, str]:
    """The texts by the names of their tags, including the comment and the maker's note.

    Some programs write these two into the main directory, against the standard.
    """
    main = _main(data)
    form, pointer = ifd.layout(data), main.get(_EXIF_DIRECTORY)
    at = pointer.whole(data) if pointer is not None else None
    found = {**main, **(ifd.entries(data, form, at) if form is not None and at is not None else {})}
    named = {name: plain(entry.value(data)) for tag, name in _TEXTS.items() if (entry := found.get(tag)) is not None}
    if _COMMENT in found:
        named[COMMENT] = comment(found[_COMMENT].value(data))
    if _MAKER_NOTE in found:
        note = found[_MAKER_NOTE].value(data)
        if note.startswith(MAKER_PREFIX) or found[_MAKER_NOTE].kind == 2:  # those of cameras are not text
            named[MAKER_NOTE] = plain(note.removeprefix(MAKER_PREFIX))
    return {name: text for name, text in named.items() if text}


def _main(data: bytes) -> dict[int, Entry]:
    form = ifd.layout(data)
    return {} if form is None else ifd.entries(data, form, form.first)


def plain(text: bytes) -> str:
    """Decode bytes of unknown encoding: as UTF-8 if they are valid, else as Latin-1."""
    text = text.rstrip(b"\0")
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def comment(value: bytes) -> str:
    """Decode a UserComment (4.6.5): eight bytes that name the encoding, which many writers omit, then the text."""
    prefix, text = value[:_PREFIX], value[_PREFIX:]
    if prefix == b"UNICODE\0":
        return _utf_16(text)
    if prefix == b"JIS\0\0\0\0\0":
        return text.rstrip(b"\0").decode("iso2022_jp", "replace")
    if prefix in (b"ASCII\0\0\0", bytes(_PREFIX)):
        return plain(text)
    return plain(value)


def _utf_16(text: bytes) -> str:
    """Decode UTF-16 in the byte order that gives the more plausible text: the standard does not specify the order."""
    if text[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return text.decode("utf-16", "replace").rstrip("\0")
    # On a tie big-endian, which the web UI writes.
    orders = [text[: len(text) & ~1].decode(order, "replace") for order in ("utf-16-be", "utf-16-le")]
    return max(orders, key=_sense).rstrip("\0")


def _sense(text: str) -> float:
    """A score of how plausible a text is: higher for ASCII, letters and few scripts."""
    sample = text[:2048]
    worth = {"L": 0.75, "N": 0.5, "P": 0.5, "Z": 0.5, "C": -3.0}
    score = 0.0
    for letter in sample:
        if letter < "\x7f":
            score += 1 if letter >= " " or letter in "\t\n\r" else -2
        else:
            score += worth.get(unicodedata.category(letter)[0], 0.25)
    scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in sample if letter > "\x7f"}
    return score - len(scripts)


def make(text: str, details: str) -> bytes:
    """Make EXIF with a text as comment, in big-endian UTF-16 as the web UI writes it, and with JSON as maker's note.

    Parts that do not fit into a JPEG are left out, the note first.
    """
    for note in (details, "") if text else ():
        exif = Image.Exif()
        directory = {ExifTags.Base.UserComment: b"UNICODE\0" + text.encode("utf-16-be")}
        if note:
            directory[ExifTags.Base.MakerNote] = MAKER_PREFIX + note.encode()
        exif[ExifTags.IFD.Exif] = directory
        data = exif.tobytes()
        if len(data) <= LARGEST:
            return data
    return b""
