"""Recognizes the glyphs of an image of the demo world, with their places, style and background colour.

No network is trained for it: it explains the image. With the background taken away, what is left of an image is
an energy, the sum of its squares; a glyph drawn in some style, size and place explains a part of that energy. The
hypothesis that explains the most is the verdict. A search at half resolution proposes, one at full resolution
decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from training.glyphs import NAMES
from training.render import CENTRES, JITTER, PAIR_SIDE, SIDE, SIDES, ink
from training.styles import STYLES, boxed, styled
from training.world import BACKGROUNDS, Placed, Scene

Array = NDArray[np.float32]

TRUST = 0.4
"""A verdict that explains less of the image's energy is a guess, and counts as nothing recognized."""
_RING = 5
"""Width of the border that tells the background, in pixels."""
_REACH = JITTER // 2 + 1
"""How far the first search looks around a place, in half-resolution pixels."""
_GROWTH = 4
"""How much larger or smaller than drawn a glyph may be, in pixels."""
_AMPLITUDE = (0.6, 1.1)
"""How much paler or stronger than its glyph an image may be."""
_CLOSE = 0.8
"""What explains at least this share of the best goes to the second search, ..."""
_GLYPHS_KEPT = 3
"""... with so many glyphs for each slot and style."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A position of a glyph, and its size."""

    place: str
    size: str
    side: int


SLOTS: tuple[Slot, ...] = (
    *(Slot(place="centre", size=size, side=side) for size, side in SIDES.items()),
    *(Slot(place=place, size="medium", side=PAIR_SIDE) for place in ("left", "right", "above", "below")),
)
_LAYOUTS: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,), (3, 4), (5, 6))
"""The slots that a scene fills together, as indices of `SLOTS`."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of the judge. `explained` is the share of the image's energy that `scene` explains, 0 to 1."""

    scene: Scene
    explained: float

    @property
    def sure(self) -> bool:
        return self.explained >= TRUST


@dataclass(frozen=True, kw_only=True)
class _Find:
    """The best match of one glyph in a slot: explained energy, and its corner (x, y) at half resolution."""

    gain: float
    glyph: int
    corner: tuple[int, int]
    side: int


def holds(asked: Scene, verdict: Verdict) -> bool:
    """Return whether the image shows the glyphs at their places and the background that were asked for."""
    seen = verdict.scene
    return verdict.sure and seen.background == asked.background and _glyphs(seen) == _glyphs(asked)


def _glyphs(scene: Scene) -> dict[str, str]:
    return {item.place: item.glyph for item in scene.objects}


def judge(picture: NDArray[np.uint8]) -> Verdict:
    """Return the scene that explains `picture` best.

    :param picture: (128, 128, 3) uint8 RGB.
    :raises ValueError: another shape or type.
    """
    if picture.shape != (SIDE, SIDE, 3) or picture.dtype != np.uint8:
        raise ValueError(f"a picture is ({SIDE}, {SIDE}, 3) uint8; got {picture.shape} {picture.dtype}.")
    background, colour = _background(picture)
    content = soften((picture.astype(np.float32) - colour) / 255)
    energy = float(np.square(content).sum())
    proposals = _propose(_halve(content), background)
    slots, style, finds = _decide(content, background, proposals)
    objects = tuple(
        Placed(glyph=NAMES[find.glyph], place=SLOTS[slot].place, size=SLOTS[slot].size)
        for slot, find in zip(slots, finds, strict=True)
    )
    scene = Scene(objects=objects, background=background, style=STYLES[style])
    explained = sum(find.gain for find in finds) / energy if energy > 1 else 0.0
    return Verdict(scene=scene, explained=max(0.0, explained))


def explained_by(picture: NDArray[np.uint8], sprite: NDArray[np.uint8]) -> float:
    """The share of the image's energy that one thing explains that the world does not have, as a photo of any size in
    the centre, 0 to 1. Where it is more than TRUST and more than the verdict's, the image shows that thing.

    :param picture: (128, 128, 3) uint8 RGB.
    :param sprite: (height, width, 4) uint8 RGBA, square.
    """
    background, colour = _background(picture)
    content = soften((picture.astype(np.float32) - colour) / 255)
    energy = float(np.square(content).sum())
    base, best = np.array(BACKGROUNDS[background], np.float32) / 255, 0.0
    for side in (side + more for side in SIDES.values() for more in range(-_GROWTH, _GROWTH + 1, 2)):
        drawn = boxed(sprite, side).astype(np.float32) / 255
        template = soften(np.asarray((drawn[..., :3] - base) * drawn[..., 3:], np.float32)).reshape(1, -1)
        corners = _corners(CENTRES["centre"], side, 2 * _REACH, SIDE)
        gains = _gains(_patches(content, side, corners), template, np.square(template).sum(axis=1))
        best = max(best, float(gains.max()))
    return best / energy if energy > 1 else 0.0


def _background(picture: NDArray[np.uint8]) -> tuple[str, Array]:
    """The name of the background that most of the border has, and the colour (3,) that it really has there."""
    inner = np.ones((SIDE, SIDE), bool)
    inner[_RING:-_RING, _RING:-_RING] = False
    ring = picture[inner].astype(np.float32)
    palette = np.array(list(BACKGROUNDS.values()), np.float32)
    nearest = np.square(ring[:, None] - palette).sum(axis=-1).argmin(axis=-1)
    best = int(np.bincount(nearest, minlength=len(palette)).argmax())
    return tuple(BACKGROUNDS)[best], np.median(ring[nearest == best], axis=0).astype(np.float32)


def soften(image: Array) -> Array:
    """Blur (H, W, C) with the kernel 1 2 1 in both directions, so that small displacements still match."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return np.asarray((across[:-2] + 2 * across[1:-1] + across[2:]) / 16, np.float32)


def _halve(image: Array) -> Array:
    """(H, W, C) -> (H/2, W/2, C), means of 2 x 2; an odd last row or column goes."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    cut = image[: 2 * height, : 2 * width]
    return np.asarray(cut.reshape(height, 2, width, 2, -1).mean(axis=(1, 3)), np.float32)


@lru_cache(maxsize=4096)
def _template(glyph: int, side: int, style: int, background: str) -> Array:
    """What a glyph adds to a background: (side, side, 3) float32, -1 to 1, softened."""
    drawn = styled(NAMES[glyph], side, STYLES[style]).astype(np.float32) / 255
    colours = ink(background) / 255 if STYLES[style] == "outline" else drawn[..., :3]
    base = np.array(BACKGROUNDS[background], np.float32) / 255
    return soften(np.asarray((colours - base) * drawn[..., 3:], np.float32))


@cache
def _bank(side: int, background: str) -> tuple[Array, Array]:
    """Every glyph in every style at half resolution: (styles * glyphs, (side // 2) ** 2 * 3), and their energies."""
    rows = [
        _halve(_template(glyph, side, style, background)).ravel()
        for style in range(len(STYLES))
        for glyph in range(len(NAMES))
    ]
    bank = np.stack(rows)
    return bank, np.square(bank).sum(axis=1)


def _gains(patches: Array, templates: Array, energies: Array) -> Array:
    """(P, K) patches and (T, K) templates -> (P, T): the energy each template explains at its best amplitude."""
    product = patches @ templates.T
    amplitude = (product / np.maximum(energies, 1e-6)).clip(*_AMPLITUDE)
    return np.asarray(2 * amplitude * product - amplitude**2 * energies, np.float32)


def _patches(image: Array, side: int, corners: list[tuple[int, int]]) -> Array:
    """The squares of `side` pixels at (x, y) `corners`, one a row."""
    return np.stack([image[y : y + side, x : x + side].ravel() for x, y in corners])


def _corners(centre: tuple[int, int], side: int, reach: int, limit: int) -> list[tuple[int, int]]:
    """Corners of the squares around `centre` that lie in an image of `limit` pixels, each once."""

    def line(middle: int) -> list[int]:
        start = middle - side // 2
        return sorted({min(max(start + step, 0), limit - side) for step in range(-reach, reach + 1)})

    return [(x, y) for y in line(centre[1]) for x in line(centre[0])]


def _propose(half: Array, background: str) -> dict[tuple[int, int], list[_Find]]:
    """(slot, style) -> its best glyphs by the search at half resolution, best first."""
    proposals: dict[tuple[int, int], list[_Find]] = {}
    for index, slot in enumerate(SLOTS):
        best: dict[tuple[int, int], _Find] = {}
        for side in (slot.side - _GROWTH // 2, slot.side + _GROWTH // 2):
            bank, energies = _bank(side, background)
            x, y = CENTRES[slot.place]
            corners = _corners((x // 2, y // 2), side // 2, _REACH, SIDE // 2)
            gains = _gains(_patches(half, side // 2, corners), bank, energies)
            where = gains.argmax(axis=0)
            for number, position in enumerate(where):
                gain, key = float(gains[position, number]), (number // len(NAMES), number % len(NAMES))
                if key not in best or gain > best[key].gain:
                    best[key] = _Find(gain=gain, glyph=key[1], corner=corners[position], side=side)
        for style in range(len(STYLES)):
            finds = [find for (found_style, _), find in best.items() if found_style == style]
            proposals[index, style] = sorted(finds, key=lambda find: -find.gain)[:_GLYPHS_KEPT]
    return proposals


def _decide(
    content: Array, background: str, proposals: dict[tuple[int, int], list[_Find]]
) -> tuple[tuple[int, ...], int, list[_Find]]:
    """The layout, style and glyphs that explain the most at full resolution, among those that came close."""
    totals = {
        (slots, style): sum(proposals[slot, style][0].gain for slot in slots)
        for slots in _LAYOUTS
        for style in range(len(STYLES))
    }
    best = max(totals.values())
    enough = best - (1 - _CLOSE) * abs(best)
    refined: dict[tuple[int, int], _Find] = {}
    results: list[tuple[float, tuple[int, ...], int]] = []
    for (slots, style), total in totals.items():
        if total < enough:
            continue
        for slot in slots:
            if (slot, style) not in refined:
                finds = [_refine(content, background, SLOTS[slot], style, find) for find in proposals[slot, style]]
                refined[slot, style] = max(finds, key=lambda find: find.gain)
        results.append((sum(refined[slot, style].gain for slot in slots), slots, style))
    _, slots, style = max(results)
    return slots, style, [refined[slot, style] for slot in slots]


def _refine(content: Array, background: str, slot: Slot, style: int, found: _Find) -> _Find:
    """Look again for one glyph, at full resolution and at every second size."""
    middle = found.side // 4 * 2
    centre = (2 * found.corner[0] + middle, 2 * found.corner[1] + middle)
    best = _Find(gain=-np.inf, glyph=found.glyph, corner=found.corner, side=found.side)
    for side in range(slot.side - _GROWTH, slot.side + _GROWTH + 1, 2):
        corners = _corners(centre, side, 2, SIDE)
        template = _template(found.glyph, side, style, background).reshape(1, -1)
        gains = _gains(_patches(content, side, corners), template, np.square(template).sum(axis=1))
        position = int(gains.argmax())
        if gains[position, 0] > best.gain:
            best = _Find(gain=float(gains[position, 0]), glyph=found.glyph, corner=corners[position], side=side)
    return best
