"""Says whether a picture is the wanted one of an edit.

No network is trained for it. The wanted picture is compared with everything that the edit could have become by one
mistake: the pictures that were given, another thing, style, background, place, word, font or colour. The edit succeeded
where the picture is closer to the wanted one than to any of those, explains enough of what is on it, and where what was
not to change has stayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from training.demo.qwen_edit.cases import KEEP, Case
from training.demo.qwen_edit.pictures import FONTS, INKS, LINES, SLOTS, WORDS, Picture, Pixels, contrasts, draw
from training.glyphs import NAMES
from training.judge import TRUST, soften
from training.render import SIDE
from training.styles import STYLES
from training.world import BACKGROUNDS

KEPT = 0.08
"""How far what was not to change may be from what it was: the mean difference of a channel, as a share of its range."""
_IN_PLACE = range(6, 13)
"""Modes that change one picture and leave the rest of it as it is."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says.

    :param nearest: what the picture is nearest to.
    :param explained: the share of the energy of what is on the wanted picture that is there, at most 1.
    :param moved: how far what was not to change is from what it was, 0 to 1.
    """

    right: bool
    nearest: Picture
    explained: float
    moved: float


def judge(case: Case, picture: Pixels) -> Verdict:
    """Judge the result of an edit.

    :param picture: (128, 128, 3) uint8 RGB.
    :raises ValueError: another shape or type.
    """
    if picture.shape != (SIDE, SIDE, 3) or picture.dtype != np.uint8:
        raise ValueError(f"a picture is ({SIDE}, {SIDE}, 3) uint8; got {picture.shape} {picture.dtype}.")
    seen = _content(picture)
    candidates = list(dict.fromkeys([case.wanted, *mistakes(case)]))
    errors = [float(np.square(seen - _content(draw(candidate))).sum()) for candidate in candidates]
    nearest = candidates[int(np.argmin(errors))]
    colour = np.array(BACKGROUNDS[case.wanted.background], np.float32) / 255
    energy = float(np.square(_content(draw(case.wanted)) - colour).sum())
    explained = 1 - errors[0] / energy
    moved = _moved(case, picture)
    right = nearest == case.wanted and explained >= TRUST and moved <= KEPT
    return Verdict(right=right, nearest=nearest, explained=explained, moved=moved)


def mistakes(case: Case) -> Iterator[Picture]:
    """What the picture could be instead."""
    if case.mode != KEEP:
        yield from case.given
    wanted = case.wanted
    for name in BACKGROUNDS:
        yield replace(wanted, background=name)
    for style in STYLES:
        yield replace(wanted, style=style)
    things = wanted.things
    if len(things) == 1:
        for slot in SLOTS:
            yield replace(wanted, things=(replace(things[0], slot=slot),))
    for number, thing in enumerate(things):
        yield replace(wanted, things=things[:number] + things[number + 1 :])
        for glyph in NAMES:
            yield replace(wanted, things=(*things[:number], replace(thing, glyph=glyph), *things[number + 1 :]))
    if len(things) > 1:
        glyphs = [thing.glyph for thing in things]
        turned = [replace(thing, glyph=glyph) for thing, glyph in zip(things, glyphs[1:] + glyphs[:1], strict=True)]
        yield replace(wanted, things=tuple(turned))
    yield from _miswritten(wanted)


def _miswritten(wanted: Picture) -> Iterator[Picture]:
    """The same with something about its word that is wrong."""
    writing = wanted.writing
    if writing is None:
        return
    yield replace(wanted, writing=None)
    others = {
        "word": WORDS,
        "font": FONTS,
        "position": tuple(LINES),
        "ink": tuple(name for name in INKS if contrasts(name, wanted.background)),
    }
    for field, values in others.items():
        for value in values:
            yield replace(wanted, writing=replace(writing, **{field: value}))


def _content(pixels: Pixels) -> NDArray[np.float32]:
    return soften(pixels.astype(np.float32) / 255)


def _moved(case: Case, picture: Pixels) -> float:
    """How far the pixels are from what they were, where the edit does not change them."""
    before, wanted = draw(case.given[0]).astype(np.float32), draw(case.wanted).astype(np.float32)
    changed = np.abs(before - wanted).max(axis=-1) >= 8
    same = cv2.dilate(changed.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    if case.mode not in (KEEP, *_IN_PLACE) or not same.any():
        return 0.0
    return float(np.abs(_content(picture) - _content(draw(case.given[0])))[same].mean())
