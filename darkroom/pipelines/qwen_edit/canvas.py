"""Sizes and pixels of an edit: the images as networks see them, and the result as large as the first of them.

diffusers stretches an image to sides that the model takes, so that results come back shifted and in another size. Here
the first image is padded instead, and the padding is cut off the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from darkroom.images import Pixels
from darkroom.pipelines.qwen_edit.checkpoint import SIDE_MULTIPLE

_CONDITION_MULTIPLE = 32
"""Of sides of images that are only looked at: `calculate_dimensions` of diffusers' pipelines."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What is edited for a result of a size.

    :param width, height: of the result.
    :param inner_width, inner_height: of its content on the canvas; smaller where the result is larger than an edit may
        be.
    """

    width: int
    height: int
    inner_width: int
    inner_height: int

    @classmethod
    def of(cls, width: int, height: int, max_pixels: int) -> Canvas:
        """The canvas for a result.

        :param max_pixels: of the canvas; a very long result, whose short side is that of a token, may have more.
        """
        inner = width, height
        scale = min(1.0, math.sqrt(max_pixels / (width * height)))
        while _up(inner[0]) * _up(inner[1]) > max_pixels and min(inner) > SIDE_MULTIPLE:
            inner = max(1, int(width * scale)), max(1, int(height * scale))
            scale *= 0.99
        return cls(width=width, height=height, inner_width=inner[0], inner_height=inner[1])

    @property
    def outer_width(self) -> int:
        """Width that the model makes."""
        return _up(self.inner_width)

    @property
    def outer_height(self) -> int:
        """Height that the model makes."""
        return _up(self.inner_height)

    def frame(self, image: Pixels) -> Pixels:
        """An image (h, w, 3) with the share of padding that the canvas has, which repeats its edge to the right and
        below."""
        height, width = image.shape[:2]
        right = round(width * self.outer_width / self.inner_width) - width
        below = round(height * self.outer_height / self.inner_height) - height
        return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")

    def cut(self, made: Pixels) -> Pixels:
        """The result (height, width, 3) of what the model made."""
        return resized(made[: self.inner_height, : self.inner_width], self.width, self.height)


def resized(image: Pixels, width: int, height: int) -> Pixels:
    """An image (h, w, 3) uint8 at another size, with Lanczos, as diffusers' `VaeImageProcessor`."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def condition_size(image: Pixels, area: int) -> tuple[int, int]:
    """Width and height at which an image is looked at: about `area` pixels in its proportions.

    `calculate_dimensions` of diffusers' pipelines, which gives 0 for a side of a very long image.
    """
    ratio = image.shape[1] / image.shape[0]
    width = math.sqrt(area * ratio)
    height = width / ratio
    return _nearest(width), _nearest(height)


def _nearest(side: float) -> int:
    return max(_CONDITION_MULTIPLE, round(side / _CONDITION_MULTIPLE) * _CONDITION_MULTIPLE)


def _up(side: int) -> int:
    return -(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE
