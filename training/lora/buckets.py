"""Sizes of training images: about one area for all of them, each near the aspect ratio of its image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from darkroom.request.training import RESOLUTION_STEP

Size = tuple[int, int]
"""Width and height in pixels."""
_LONGEST = 2
"""A side is at most this many times the resolution, and the other one at least the resolution divided by it; images
that are longer or narrower are cut."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How an image comes to its size: resized until it covers it, then cut around its centre.

    :param original: size of the image.
    :param resized: size before it is cut.
    :param corner: left and top of the cut in the resized image.
    :param size: size of the result.
    """

    original: Size
    resized: Size
    corner: Size
    size: Size


def bucket_of(size: Size, resolution: int) -> Size:
    """The size for an image: sides are multiples of 64, the area is at most `resolution` squared and as near to it as
    the step allows, and the aspect ratio is as near to the image's as it can be."""
    area, ratio = resolution**2, size[0] / size[1]
    shortest = math.ceil(resolution / _LONGEST / RESOLUTION_STEP) * RESOLUTION_STEP
    found: set[Size] = set()
    for side in range(shortest, resolution * _LONGEST + 1, RESOLUTION_STEP):
        other = area // side // RESOLUTION_STEP * RESOLUTION_STEP
        if other:
            found |= {(side, other), (other, side)}
    return min(sorted(found), key=lambda one: (abs(math.log(one[0] / one[1] / ratio)), -one[0] * one[1]))


def fit(size: Size, resolution: int) -> Fit:
    """How an image of a size is fitted to its bucket."""
    bucket = bucket_of(size, resolution)
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    wide, high = (max(side, round(scale * whole)) for side, whole in zip(bucket, size, strict=True))
    corner = (wide - bucket[0]) // 2, (high - bucket[1]) // 2
    return Fit(original=size, resized=(wide, high), corner=corner, size=bucket)


def fitted(pixels: NDArray[np.uint8], wanted: Fit) -> NDArray[np.float32]:
    """(height, width, 3) uint8 -> (3, height, width) float32, -1..1, of the wanted size."""
    resized = Image.fromarray(pixels).resize(wanted.resized, Image.Resampling.LANCZOS)
    left, top = wanted.corner
    cut = resized.crop((left, top, left + wanted.size[0], top + wanted.size[1]))
    return np.ascontiguousarray(np.asarray(cut, np.float32).transpose(2, 0, 1) / 127.5 - 1)
