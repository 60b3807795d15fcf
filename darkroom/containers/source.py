"""The parts of an image file."""

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
    :param end: number of bytes in the original up to the end of the image; None if it is unknown.
    :param exif: a TIFF structure, without a prefix; not checked.
    :param xmp: XML; not checked.
    :param icc_profile: not checked.
    :param key: the one transparent colour, a value or three, at the depth of the samples.
    :param bits: bits of a sample, if decoded values do not show it.
    :param inverted: whether the smallest value of grey is white.
    :param unfinished: whether the end of the image is missing; the decoder has to check that all pixels are there.
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
