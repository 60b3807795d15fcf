"""What a container tells of its image."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PIECES = 1 << 16
"""Chunks or segments of one file: a large image has some thousands, and walking over millions takes seconds."""
MAX_PROFILE_BYTES = 1 << 24
"""Maximum size of a colour profile. The largest in use are those of printers, with a few megabytes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image file, taken apart.

    :param kind: Pillow's name of the format.
    :param data: a file of that format with what its pixels need, and nothing else.
    :param end: bytes of the original up to the end of its image; None where that is not known.
    :param exif: a TIFF structure, without a prefix; not checked.
    :param xmp: XML; not checked.
    :param icc_profile: not checked.
    :param key: the one transparent colour, a value or three, at the depth of the samples.
    :param bits: of a sample, where decoded values do not tell it.
    :param inverted: grey whose smallest value is white.
    :param unfinished: the end of the image is missing: whether all of its pixels are there has yet to be seen.
    """

    kind: str
    data: bytes
    end: int | None
    exif: bytes | None = None
    xmp: bytes | None = None
    icc_profile: bytes | None = None
    key: tuple[int, ...] | None = None
    bits: int | None = None
    inverted: bool = False
    unfinished: bool = False
