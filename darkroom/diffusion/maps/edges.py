"""Edges by Canny's method, as ControlNets read them."""

from __future__ import annotations

from darkroom.diffusion.controls import ControlOptions, load_control
from darkroom.images import Pixels


def make(image: Pixels) -> Pixels:
    """White edges on black, (height, width, 3) uint8, of an image of that shape."""
    return load_control("canny").preprocess(image, ControlOptions())
