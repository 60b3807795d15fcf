"""Edits of each of the sixteen modes: pictures that are given, what is asked, and the picture that is wanted."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from darkroom.edit_modes.modes import MODES
from training.demo.qwen_edit.pictures import (
    FONTS,
    INKS,
    LINES,
    MAPS,
    WORDS,
    Picture,
    Thing,
    Writing,
    contrasts,
    plain_ink,
)
from training.glyphs import NAMES
from training.styles import STYLES
from training.world import BACKGROUNDS, HELD_OUT_PERCENT

PERSONS: tuple[str, ...] = (
    *("cat", "dog", "panda", "frog", "pig", "rabbit", "lion", "elephant", "fish", "octopus", "turtle", "butterfly"),
    *("owl", "penguin", "robot", "ghost"),
)
"""Things that count as persons: they have faces."""
PRODUCTS: tuple[str, ...] = tuple(name for name in NAMES if name not in PERSONS)
KEEP = 0
"""The number of edits that ask for no change."""
_SIZES = ("small", "medium", "large")
_PLACES = ("small", "large", "left", "right", "above", "below")
"""Where maps move a thing that stands in the middle, medium."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One edit.

    :param mode: 1 to 16, or `KEEP`.
    :param given: the pictures, in their order; a control map is the last.
    :param named: the background that the sentence names; None = that of the first picture stays.
    """

    mode: int
    given: tuple[Picture, ...]
    wanted: Picture
    named: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination of things, word and background in this mode."""
        wanted = self.wanted
        word = wanted.writing.word if wanted.writing else ""
        things = "+".join(sorted(thing.glyph for thing in wanted.things))
        key = f"{self.mode}|{things}|{word}|{wanted.background}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def random_case(rng: random.Random, mode: int) -> Case:
    """An edit of that mode."""
    return _MAKERS[mode](rng, mode)


def training_cases(seed: int, mode: int) -> Iterator[Case]:
    """Edits of a mode that are not held out, without end; the same for the same seed."""
    rng = random.Random(seed * 1009 + mode)
    while True:
        case = random_case(rng, mode)
        if mode == KEEP or not case.held_out:
            yield case


def unseen_cases(count: int, mode: int, seed: int = 2024) -> list[Case]:
    """`count` different edits of a mode that training never sees; the same for the same seed.

    :raises ValueError: there are fewer.
    """
    rng = random.Random(seed * 1009 + mode)
    found: dict[Case, None] = {}
    for _ in range(2000 * count):
        case = random_case(rng, mode)
        if case.held_out:
            found[case] = None
        if len(found) == count:
            return list(found)
    raise ValueError(f"mode {mode} has only {len(found)} such cases; got count={count}.")


def _style(rng: random.Random) -> str:
    return rng.choices(STYLES, (80, 10, 10))[0]


def _background(rng: random.Random, *, without: str | None = None) -> str:
    return rng.choice([name for name in BACKGROUNDS if name != without])


def _alone(rng: random.Random, glyph: str, *, slot: str = "medium", style: str = "photo") -> Picture:
    return Picture(things=(Thing(glyph=glyph, slot=slot),), background=_background(rng), style=style)


def _together(rng: random.Random, mode: int, glyphs: tuple[str, ...], slots: tuple[str, ...]) -> Case:
    style = _style(rng)
    given = tuple(_alone(rng, glyph, style=style) for glyph in glyphs)
    named = _background(rng) if rng.random() < 0.5 else None
    things = tuple(Thing(glyph=glyph, slot=slot) for glyph, slot in zip(glyphs, slots, strict=True))
    wanted = Picture(things=things, background=named or given[0].background, style=style)
    return Case(mode=mode, given=given, wanted=wanted, named=named)


def _pair(rng: random.Random, mode: int) -> Case:
    """Modes 1, 2 and 4: two of them side by side, the first one on the left."""
    if mode == 1:
        first, second = rng.sample(PERSONS, 2)
    elif mode == 2:
        first, second = rng.choice(PERSONS), rng.choice(PRODUCTS)
    else:
        first, second = rng.sample(PRODUCTS, 2)
    return _together(rng, mode, (first, second), ("left", "right"))


def _scene(rng: random.Random, mode: int) -> Case:
    """Mode 3: the person of the first picture in front of the second."""
    person = _alone(rng, rng.choice(PERSONS), slot=rng.choice(_SIZES), style=_style(rng))
    scene = Picture(things=(), background=_background(rng, without=person.background))
    return Case(mode=mode, given=(person, scene), wanted=replace(person, background=scene.background))


def _objects(rng: random.Random, mode: int) -> Case:
    """Mode 5: two or three things in a row."""
    if rng.random() < 0.5:
        return _together(rng, mode, tuple(rng.sample(NAMES, 2)), ("left", "right"))
    return _together(rng, mode, tuple(rng.sample(NAMES, 3)), ("first", "second", "third"))


def _keep_subject(rng: random.Random, mode: int) -> Case:
    """Modes 6 and 7: another background."""
    glyph = rng.choice(PERSONS if mode == 6 else PRODUCTS)
    before = _alone(rng, glyph, slot=rng.choice(_SIZES), style=_style(rng))
    named = _background(rng, without=before.background)
    return Case(mode=mode, given=(before,), wanted=replace(before, background=named), named=named)


def _change_style(rng: random.Random, mode: int) -> Case:
    before, after = rng.sample(STYLES, 2)
    picture = _alone(rng, rng.choice(NAMES), slot=rng.choice(_SIZES), style=before)
    return Case(mode=mode, given=(picture,), wanted=replace(picture, style=after))


def _written(rng: random.Random) -> Picture:
    """A picture with a word on it, most with a small thing, too."""
    background = _background(rng)
    position = rng.choice(tuple(LINES))
    writing = Writing(
        word=rng.choice(WORDS),
        position=position,
        font=rng.choice(FONTS),
        ink=rng.choice([name for name in INKS if contrasts(name, background)]),
    )
    things = () if position == "center" else (Thing(glyph=rng.choice(NAMES), slot="small"),)
    return Picture(things=things, background=background, writing=writing)


def _write(rng: random.Random, mode: int) -> Case:
    """Modes 9 to 12: another word, a new one, another font, another colour."""
    wanted = _written(rng)
    writing = wanted.writing
    assert writing is not None
    if mode == 10:
        if rng.random() < 0.5:  # no colour and font are asked for
            wanted = replace(wanted, writing=replace(writing, font="sans", ink=plain_ink(wanted.background)))
        return Case(mode=mode, given=(replace(wanted, writing=None),), wanted=wanted)
    others: dict[int, tuple[str, list[str]]] = {
        9: ("word", [word for word in WORDS if word != writing.word]),
        11: ("font", [font for font in FONTS if font != writing.font]),
        12: ("ink", [ink for ink in INKS if ink != writing.ink and contrasts(ink, wanted.background)]),
    }
    field, values = others[mode]
    before = replace(wanted, writing=replace(writing, **{field: rng.choice(values)}))
    return Case(mode=mode, given=(before,), wanted=wanted)


def _follow(rng: random.Random, mode: int) -> Case:
    """Modes 13 to 16: the thing of the first picture at the place and in the size that the map shows."""
    before = _alone(rng, rng.choice(NAMES), style=_style(rng))
    wanted = replace(before, things=(replace(before.things[0], slot=rng.choice(_PLACES)),))
    return Case(mode=mode, given=(before, replace(wanted, map=MAPS[mode - 13])), wanted=wanted)


def _keep(rng: random.Random, mode: int) -> Case:
    """No change."""
    picture = _written(rng) if rng.random() < 0.3 else _alone(rng, rng.choice(NAMES), slot=rng.choice(_SIZES))
    return Case(mode=mode, given=(picture,), wanted=picture)


_MAKERS: dict[int, Callable[[random.Random, int], Case]] = {
    KEEP: _keep,
    **dict.fromkeys((1, 2, 4), _pair),
    3: _scene,
    5: _objects,
    **dict.fromkeys((6, 7), _keep_subject),
    8: _change_style,
    **dict.fromkeys(range(9, 13), _write),
    **dict.fromkeys(range(13, 17), _follow),
}
assert set(_MAKERS) == {KEEP, *MODES}
