"""The three styles (photo, drawing, outline) as filters on a glyph."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.glyphs import sprites

STYLES: tuple[str, ...] = ("photo", "drawing", "outline")
INK = 40
"""Grey level of the contour of a drawing."""
_EDGE_LOW, _EDGE_HIGH = 0.08, 0.22
"""Gradient per pixel (0 to 1) at which a contour begins, and at which it is opaque."""


@lru_cache(maxsize=16384)
def styled(name: str, side: int, style: str) -> NDArray[np.uint8]:
    """Glyph `name` in a box of `side` pixels, in `style`: (side, side, 4) uint8 RGBA, straight alpha.

    An outline holds its line in alpha only; the scene chooses the ink that its background shows best.
    """
    plain = boxed(sprites()[name], side)
    if style == "photo":
        return plain
    line = _contour(plain)
    if style == "outline":
        return np.dstack([np.zeros_like(plain[..., :3]), (line * 255).astype(np.uint8)])
    colours = plain[..., :3].astype(np.float32)
    paper = 0.45 * (np.round(colours / 85) * 85) + 0.55 * 255  # four tones a channel, as if by coloured pencil
    drawn = paper * (1 - line[..., None]) + INK * line[..., None]
    alpha = np.maximum(plain[..., 3], line * 255)
    return np.dstack([drawn, alpha]).astype(np.uint8)


def boxed(sprite: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A sprite, (height, width, 4) uint8 RGBA, in a box of `side` pixels, as a photo shows it: (side, side, 4)."""
    margin = max(2, side // 24)  # room for the line around a glyph that fills its box
    inner = side - 2 * margin
    image = Image.fromarray(sprite, "RGBA").convert("RGBa").resize((inner, inner), Image.Resampling.LANCZOS)
    return np.pad(np.array(image.convert("RGBA")), ((margin, margin), (margin, margin), (0, 0)))


def _contour(plain: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the edges of a (side, side, 4) glyph, 0 to 1: those of its shape and of its colours."""
    alpha = plain[..., 3:].astype(np.float32) / 255
    layers = np.concatenate([plain[..., :3] * alpha, plain[..., 3:]], axis=-1).clip(0, 255).astype(np.uint8)
    radius = plain.shape[0] / 50  # the same glyph has the same lines at every size
    soft = np.stack([_blurred(layers[..., i], radius) for i in range(4)], axis=-1)
    padded = np.pad(soft, ((1, 1), (1, 1), (0, 0)))
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    strength = np.hypot(across, down).max(axis=-1) * plain.shape[0] / 50
    line: NDArray[np.float32] = ((strength - _EDGE_LOW) / (_EDGE_HIGH - _EDGE_LOW)).clip(0, 1).astype(np.float32)
    return line


def _blurred(layer: NDArray[np.uint8], radius: float) -> NDArray[np.float32]:
    soft = Image.fromarray(layer, "L").filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(soft, dtype=np.float32) / 255
