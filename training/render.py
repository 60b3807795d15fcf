"""Render a scene as an image."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from training.styles import styled
from training.world import BACKGROUNDS, Placed, Scene

SIDE = 128
"""Width and height of a scene in pixels."""
CENTRES: dict[str, tuple[int, int]] = {
    "centre": (64, 64),
    "left": (32, 64),
    "right": (96, 64),
    "above": (64, 32),
    "below": (64, 96),
}
"""Place -> (x, y) around which a glyph's box stands."""
SIDES: dict[str, int] = {"small": 48, "medium": 72, "large": 104}
"""Size -> side of the box of a single glyph, in pixels."""
PAIR_SIDE = 56
"""The same for two glyphs."""
JITTER = 4
"""How far a box is from its place, in pixels, both ways: always so far, hence two positions of a glyph are 8 pixels
apart. That is one latent, so a glyph has the same latents at all of them. With boxes anywhere and of any size, 44 %
of the variance of the latents lies in their highest octave, and a small UNet learns the glyphs many times slower."""
JITTERS: tuple[int, ...] = (-JITTER, JITTER)


def ink(background: str) -> int:
    """Grey level of an outline that shows on `background`: dark on light, light on dark."""
    red, green, blue = BACKGROUNDS[background]
    return 30 if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else 235


def render(scene: Scene, rng: random.Random, jitters: tuple[int, ...] = JITTERS) -> NDArray[np.uint8]:
    """The image of `scene`: (128, 128, 3) uint8 RGB. `rng` moves each box by one of `jitters` pixels, both ways."""
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        side = SIDES[item.size] if len(scene.objects) == 1 else PAIR_SIDE
        x, y = (centre + rng.choice(jitters) - side // 2 for centre in CENTRES[item.place])
        _paste(picture, item, (x, y, side), scene)
    return picture.round().astype(np.uint8)


def _paste(picture: NDArray[np.float32], item: Placed, box: tuple[int, int, int], scene: Scene) -> None:
    """Draw one glyph in a box of (left, top, side) into `picture`, whole inside it."""
    x, y, side = box
    glyph = styled(item.glyph, side, scene.style).astype(np.float32)
    alpha = glyph[..., 3:] / 255
    colours = np.full_like(glyph[..., :3], ink(scene.background)) if scene.style == "outline" else glyph[..., :3]
    area = picture[y : y + side, x : x + side]
    area[:] = area * (1 - alpha) + colours * alpha
