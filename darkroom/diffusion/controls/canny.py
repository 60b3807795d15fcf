"""Edges by Canny's method (Canny 1986), as lllyasviel/sd-controlnet-canny was trained on them."""

from __future__ import annotations

import cv2
import numpy as np

from darkroom.diffusion.controls import ControlOptions
from darkroom.images import Pixels

TITLE = "edges"


def preprocess(picture: Pixels, options: ControlOptions) -> Pixels:
    """White edges on black, (height, width, 3) uint8, of an image of that shape."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    edges = cv2.Canny(grey, options.low_threshold, options.high_threshold)
    return np.repeat(np.asarray(edges, np.uint8)[..., None], 3, axis=2)
