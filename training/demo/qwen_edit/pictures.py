"""The pictures that edits are about: things of the demo world, a word written on them, and control maps of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from darkroom.diffusion.controls import ControlOptions
from darkroom.diffusion.controls.canny import preprocess
from training.render import CENTRES, JITTER, PAIR_SIDE, SIDE, SIDES, ink
from training.styles import styled
from training.world import BACKGROUNDS

Pixels = NDArray[np.uint8]

WORDS: tuple[str, ...] = (*("HI", "GO", "NO", "YES", "NEW", "SUN", "FUN", "OPEN", "SALE", "LOVE", "HELLO", "PARTY"),)
"""What is written on pictures."""
INKS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "green": (20, 150, 60),
    "blue": (40, 70, 220),
    "yellow": (250, 205, 40),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
"""Colours of a word, name -> RGB."""
FONTS: tuple[str, ...] = ("sans", "bold", "pixel")
LINES: dict[str, int] = {"top": 20, "center": 68, "bottom": 112}
"""Position of a word -> y of its middle, in pixels. In the centre there is no thing beside it."""
PAIRS: tuple[tuple[str, str], ...] = (("left", "right"), ("above", "below"))
MAPS: tuple[str, ...] = ("depth", "edge", "keypoints", "sketch")
_CONTRAST = 160
"""Distance in RGB that a word has at least from its background."""

_TRIO = (20, 64, 108)
SLOTS: dict[str, tuple[int, int, int]] = {
    **{size: (CENTRES["centre"][0] + JITTER, CENTRES["centre"][1] + JITTER, side) for size, side in SIDES.items()},
    **{place: (x + JITTER, y + JITTER, PAIR_SIDE) for place, (x, y) in CENTRES.items() if place != "centre"},
    **{place: (x, 64, 40) for place, x in zip(("first", "second", "third"), _TRIO, strict=True)},
}
"""Where a thing stands -> x and y of its middle and the side of its box, in pixels. Alone in the middle in three sizes,
one of a pair, or one of three. As in the pictures of other demo checkpoints whose boxes stand in one place."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A glyph in a slot."""

    glyph: str
    slot: str


@dataclass(frozen=True, kw_only=True)
class Writing:
    """A word on a picture."""

    word: str
    position: str = "bottom"
    font: str = "sans"
    ink: str = "black"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture shows.

    :param map: draws, instead of the picture, the control map of this kind of it.
    """

    things: tuple[Thing, ...]
    background: str
    style: str = "photo"
    writing: Writing | None = None
    map: str | None = None


def contrasts(name: str, background: str) -> bool:
    """Whether a word of this ink can be read on this background."""
    return bool(np.linalg.norm(np.subtract(INKS[name], BACKGROUNDS[background])) >= _CONTRAST)


def plain_ink(background: str) -> str:
    """The ink of a word for which no colour is asked."""
    return "black" if ink(background) < 128 else "white"


@lru_cache(maxsize=4096)
def draw(picture: Picture) -> Pixels:
    """(128, 128, 3) uint8 RGB. The array is shared: do not write into it."""
    drawn = _MAPS[picture.map](picture) if picture.map else _scene(picture)
    drawn.setflags(write=False)
    return drawn


def _scene(picture: Picture) -> Pixels:
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    canvas[:] = BACKGROUNDS[picture.background]
    for thing in picture.things:
        box = _box(thing)
        glyph = styled(thing.glyph, box[2], picture.style).astype(np.float32)
        colours = (
            np.full_like(glyph[..., :3], ink(picture.background)) if picture.style == "outline" else glyph[..., :3]
        )
        _blend(canvas, box, colours, glyph[..., 3] / 255)
    if picture.writing is not None:
        alpha = _letters(picture.writing.word, picture.writing.font)
        top, left = LINES[picture.writing.position] - alpha.shape[0] // 2, (SIDE - alpha.shape[1]) // 2
        area = canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        area[:] = area * (1 - alpha[..., None]) + np.array(INKS[picture.writing.ink], np.float32) * alpha[..., None]
    return canvas.round().astype(np.uint8)


def _box(thing: Thing) -> tuple[int, int, int]:
    """Left, top and side of a thing's box."""
    x, y, side = SLOTS[thing.slot]
    return x - side // 2, y - side // 2, side


def _blend(
    canvas: NDArray[np.float32], box: tuple[int, int, int], colours: NDArray[np.float32], alpha: NDArray[np.float32]
) -> None:
    x, y, side = box
    area = canvas[y : y + side, x : x + side]
    area[:] = area * (1 - alpha[..., None]) + colours * alpha[..., None]


@lru_cache(maxsize=64)
def _letters(word: str, font: str) -> NDArray[np.float32]:
    """A word as alpha (h, w), 0 to 1. Sans is the font that comes along with Pillow, pixel its oldest one enlarged."""
    if font == "pixel":
        mask = Image.new("L", (80, 16))
        ImageDraw.Draw(mask).text((2, 2), word, font=ImageFont.load_default_imagefont(), fill=255)
        mask = mask.crop(mask.getbbox())
        mask = mask.resize((3 * mask.width, 3 * mask.height), Image.Resampling.NEAREST)
    else:
        mask = Image.new("L", (160, 48))
        stroke = 2.0 if font == "bold" else 0.5
        face = ImageFont.load_default(27)
        ImageDraw.Draw(mask).text((8, 6), word, font=face, fill=255, stroke_width=stroke)
        mask = mask.crop(mask.getbbox())
    return np.asarray(mask, np.float32) / 255


def _silhouette(picture: Picture) -> NDArray[np.float32]:
    """Where things are: (128, 128), 0 to 1."""
    canvas = np.zeros((SIDE, SIDE, 1), np.float32)
    for thing in picture.things:
        box = _box(thing)
        alpha = styled(thing.glyph, box[2], "photo")[..., 3].astype(np.float32) / 255
        _blend(canvas, box, np.ones_like(alpha)[..., None], alpha)
    return canvas[..., 0]


def _depth(picture: Picture) -> Pixels:
    """Near is bright: things bulge in front of a wall that stands on a floor."""
    shape = _silhouette(picture)
    wall = np.linspace(20, 60, SIDE, dtype=np.float32)[:, None]
    inside = cv2.distanceTransform((shape > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    near = 150 + 100 * np.minimum(inside / 24, 1)
    return _grey(wall * (1 - shape) + near * shape)


def _edge(picture: Picture) -> Pixels:
    """What the service's Canny preprocessor makes of the scene."""
    return np.ascontiguousarray(preprocess(_scene(picture), ControlOptions()))


def _sketch(picture: Picture) -> Pixels:
    """Dark lines on paper."""
    canvas = np.full((SIDE, SIDE, 1), 250, np.float32)
    for thing in picture.things:
        box = _box(thing)
        alpha = styled(thing.glyph, box[2], "outline")[..., 3].astype(np.float32) / 255
        _blend(canvas, box, np.full((box[2], box[2], 1), 30, np.float32), alpha)
    return _grey(canvas[..., 0])


def _keypoints(picture: Picture) -> Pixels:
    """Coloured dots at the outermost points of each thing, joined to its middle, as in maps of poses."""
    image = Image.new("RGB", (SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    for thing in picture.things:
        left, top, side = _box(thing)
        inside = np.argwhere(styled(thing.glyph, side, "photo")[..., 3] > 127) + np.array((top, left))
        middle = tuple(float(value) for value in inside.mean(axis=0)[::-1])
        ends = [inside[pick(inside[:, axis])][::-1] for axis in (0, 1) for pick in (np.argmin, np.argmax)]
        for end, colour in zip(ends, ("red", "lime", "blue", "yellow"), strict=True):
            point = (float(end[0]), float(end[1]))
            pen.line([middle, point], fill="white", width=2)
            pen.ellipse([point[0] - 4, point[1] - 4, point[0] + 4, point[1] + 4], fill=colour)
        pen.ellipse([middle[0] - 4, middle[1] - 4, middle[0] + 4, middle[1] + 4], fill="white")
    return np.array(image)


def _grey(values: NDArray[np.float32]) -> Pixels:
    return np.repeat(values.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


_MAPS = {"depth": _depth, "edge": _edge, "keypoints": _keypoints, "sketch": _sketch}


def thumbnail(pixels: Pixels, side: int) -> Pixels:
    """What the text encoder sees of a picture: (side, side, 3)."""
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
