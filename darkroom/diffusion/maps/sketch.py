"""A sketch: what is darker than its surroundings, as pencil lines on white.

"Colour dodge": grey values divided by a blurred copy of themselves. Where an image is even both are equal, and the
paper stays white; at an edge the darker side is darker than the mean around it, and becomes a line.
"""

from __future__ import annotations

import cv2
import numpy as np

from darkroom.images import Pixels

_BLUR = 0.006
"""Of the standard deviation of the blur, as a share of the longer side: about as wide as a pencil's line."""
_CONTRAST = 2.0


def make(image: Pixels) -> Pixels:
    """Dark lines on white, (height, width, 3) uint8, of an image of that shape."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) + 1
    mean = cv2.GaussianBlur(grey, (0, 0), max(1.0, _BLUR * max(grey.shape)), borderType=cv2.BORDER_REPLICATE)
    lines = np.clip(grey / mean, 0, 1) ** _CONTRAST
    return np.repeat((lines * 255).round().astype(np.uint8)[..., None], 3, axis=2)
