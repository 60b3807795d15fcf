"""The requests of a benchmark: always the same prompts and seeds, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROMPTS = (
    "a cat on a blue background",
    "an owl above a cake on a pink background",
    "a red car on a street at night",
    "a lighthouse on a cliff, stormy sea",
    "a bowl of ramen with an egg, top view",
    "a portrait of an old man with a white beard, oil painting",
    "a dog in a garden on a sunny day",
    "a castle on a mountain in fog",
    "a bicycle in front of a yellow wall",
    "a robot that reads a book in a library",
    "two apples and a glass of water on a wooden table",
    "a sailing boat on a calm lake at sunrise",
    "a city of glass towers, wide angle",
    "a snowman in a forest, children's drawing",
    "a rocket above the clouds",
    "a vase of tulips, still life",
)
SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One request: what is to be shown, and from which noise."""

    prompt: str
    seed: int


def shot(index: int, prompts: Sequence[str] = PROMPTS, seed: int = SEED) -> Shot:
    """Return the request of a place in the run: the prompts take turns, and each request has a seed of its own."""
    return Shot(prompt=prompts[index % len(prompts)], seed=seed + index)
