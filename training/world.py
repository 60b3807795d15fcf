"""The demo world: what a scene is, the sentence that asks for it, and which scenes training never sees."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from training.glyphs import NAMES
from training.styles import STYLES

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (170, 40, 50),
    "green": (50, 125, 70),
    "blue": (55, 85, 190),
    "yellow": (240, 215, 110),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
    "pink": (250, 170, 195),
    "purple": (120, 70, 160),
}
"""Name -> RGB. A little muted, so that a red heart still shows on red."""

SIZES: tuple[str, ...] = ("small", "medium", "large")
"""Medium is what a sentence without a size word asks for."""
PLACES: tuple[str, ...] = ("centre", "left", "right", "above", "below")
_PAIRS = (("left", "right"), ("above", "below"))
HELD_OUT_PERCENT = 10
"""How many of 100 combinations of glyphs and background training never sees."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One glyph of a scene. Two glyphs in one scene are both medium."""

    glyph: str
    place: str = "centre"
    size: str = "medium"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What an image shows: one object in the centre, or two as (left, right) or (above, below).

    :raises ValueError: a word that the world does not know, or places that do not go together.
    """

    objects: tuple[Placed, ...]
    background: str
    style: str = "photo"

    def __post_init__(self) -> None:
        for value, known in ((self.background, BACKGROUNDS), (self.style, STYLES)):
            _check(value, tuple(known))
        for item in self.objects:
            _check(item.glyph, NAMES)
            _check(item.size, SIZES)
        places = tuple(item.place for item in self.objects)
        if places != ("centre",) and places not in _PAIRS:
            raise ValueError(f"places must be centre, left and right, or above and below; got {places!r}.")
        if len(places) == 2 and any(item.size != "medium" for item in self.objects):
            raise ValueError("two objects are both medium; a size word needs a single object.")


def _check(value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown word {value!r}; known are {', '.join(known)}.")


def with_article(word: str) -> str:
    """ "an apple", "a cat"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def caption(scene: Scene, *, style_words: bool = True, mirrored: bool = False) -> str:
    """The sentence that asks for `scene`.

    :param style_words: false leaves "a photo of" away; the other styles need their words.
    :param mirrored: name the second of two objects first ("a dog below a cat").
    """
    if len(scene.objects) == 1:
        item = scene.objects[0]
        noun = item.glyph if item.size == "medium" else f"{item.size} {item.glyph}"
        middle = with_article(noun)
    else:
        first, second = reversed(scene.objects) if mirrored else scene.objects
        a, b = with_article(first.glyph), with_article(second.glyph)
        if first.place in ("left", "right"):
            middle = f"{a} on the {first.place} and {b} on the {second.place}"
        else:
            middle = f"{a} {first.place} {b}"
    prefix = "" if scene.style == "photo" and not style_words else f"{with_article(scene.style)} of "
    return f"{prefix}{middle} on a {scene.background} background"


_OBJECT = r"an? (?:(?P<size{0}>small|large) )?(?P<glyph{0}>\w+)"
_SENTENCE = re.compile(
    r"(?:an? (?P<style>\w+) of )?"
    + _OBJECT.format(1)
    + r"(?: on the (?P<side1>left|right) and "
    + _OBJECT.format(2)
    + r" on the (?P<side2>left|right)| (?P<level>above|below) "
    + _OBJECT.format(3)
    + r")? on an? (?P<background>\w+) background"
)
_OTHER = {"left": "right", "right": "left", "above": "below", "below": "above"}


def parse(sentence: str) -> Scene:
    """The scene that `sentence` asks for: the inverse of `caption`, in all its forms.

    :raises ValueError: the sentence is not of the world's grammar.
    """
    match = _SENTENCE.fullmatch(" ".join(sentence.lower().rstrip(".").split()))
    if match is None:
        raise ValueError(f"not a sentence of the demo world: {sentence!r}.")
    found = match.groupdict()
    first = Placed(
        glyph=found["glyph1"], size=found["size1"] or "medium", place=found["side1"] or found["level"] or "centre"
    )
    objects: tuple[Placed, ...] = (first,)
    if first.place != "centre":
        index = "2" if found["side1"] else "3"
        second_place = found["side2"] or _OTHER[first.place]
        second = Placed(glyph=found[f"glyph{index}"], size=found[f"size{index}"] or "medium", place=second_place)
        objects = (first, second) if first.place in ("left", "above") else (second, first)
    return Scene(objects=objects, background=found["background"], style=found["style"] or "photo")


def held_out(scene: Scene) -> bool:
    """Whether training never sees this combination of glyphs and background, whatever places, sizes and style."""
    key = "+".join(sorted(item.glyph for item in scene.objects)) + "|" + scene.background
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def random_scene(rng: random.Random, *, count: int | None = None) -> Scene:
    """Any scene of the world: half with one object and half with two, or as many as `count` says."""
    count = count or rng.choice((1, 2))
    style = rng.choices(STYLES, (70, 15, 15))[0]
    background = rng.choice(tuple(BACKGROUNDS))
    if count == 1:
        size = rng.choices(SIZES, (30, 40, 30))[0]
        return Scene(objects=(Placed(glyph=rng.choice(NAMES), size=size),), background=background, style=style)
    glyphs = rng.sample(NAMES, 2)
    pair = rng.choices(_PAIRS, (60, 40))[0]
    placed = tuple(Placed(glyph=glyph, place=place) for glyph, place in zip(glyphs, pair, strict=True))
    return Scene(objects=placed, background=background, style=style)


def random_caption(rng: random.Random, scene: Scene) -> str:
    """A sentence for `scene` as training meets them: some without "a photo of", some mirrored."""
    return caption(scene, style_words=rng.random() < 0.6, mirrored=rng.random() < 0.25)


def training_scenes(seed: int) -> Iterator[Scene]:
    """Scenes that are not held out, without end; the same for the same seed."""
    rng = random.Random(seed)
    while True:
        scene = random_scene(rng)
        if not held_out(scene):
            yield scene


def held_out_scenes(count: int, *, objects: int, seed: int = 2024) -> list[Scene]:
    """`count` different held-out scenes of one or two objects; the same for the same seed.

    :raises ValueError: there are fewer; 216 hold one object, and thousands hold two.
    """
    rng = random.Random(seed)
    scenes: dict[Scene, None] = {}
    for _ in range(1000 * count):
        scene = random_scene(rng, count=objects)
        if held_out(scene):
            scenes[scene] = None
        if len(scenes) == count:
            return list(scenes)
    raise ValueError(f"there are only {len(scenes)} such scenes; got count={count}.")
