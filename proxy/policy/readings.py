"""What models read of a prompt: the words without the notation of web UIs around and inside of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from darkroom.diffusion.lora.tags import without_tags
from darkroom.errors import InvalidInput
from darkroom.prompts.changes import count_changes, parse_changes, text_at
from darkroom.prompts.schedule import MOST_CHANGES, MOST_TEXTS
from darkroom.prompts.weights import parse_weights

_NOTATION = re.compile(r"[()\[\]\\]|\bBREAK\b")
_BREAK = re.compile(r"\bBREAK\b")
_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)")


def readings(prompt: str, steps: Iterable[int]) -> tuple[str, ...]:
    """Return all ways to read a prompt, the text as it stands first.

    With brackets there are more: what every step reads of `[a:b:0.5]` and `[a|b]`, and of `(wea:1.2)pon` both "wea pon"
    and "weapon". A model that knows no notation reads the first one, which has no weights: a number between two words
    would keep "(shooting:1.2) star" from being a phrase.

    :param steps: how many are done; several where that is not decided yet. Some schedulers make one call more, or two
        for each; all are looked at.
    """
    plain = without_tags(prompt)
    found = {_WEIGHT.sub(")", plain): None}
    if _NOTATION.search(plain):
        for text in _texts(plain, steps):
            found |= dict.fromkeys(_unweighted(_BREAK.sub(" ", text)))
    return tuple(found)


def _texts(text: str, steps: Iterable[int]) -> list[str]:
    """The different texts of the steps."""
    parts = parse_changes(text)
    changes = count_changes(parts)
    if not changes or changes > MOST_CHANGES:  # models that know the notation refuse so many
        return [text]
    found: dict[str, None] = {}
    for count in sorted(_calls(steps)):
        of_count = dict.fromkeys(text_at(parts, index, count) for index in range(count))
        if len(of_count) <= MOST_TEXTS:  # as above
            found |= of_count
    return list(found)


def _calls(steps: Iterable[int]) -> set[int]:
    """How often a network that predicts noise may be called, for every kind of scheduler."""
    return {max(count, 1) for one in steps for count in (one, one + 1, 2 * one - 1, 2 * one)}


def _unweighted(text: str) -> tuple[str, ...]:
    try:
        pieces = [words for words, _ in parse_weights(text)]
    except InvalidInput:  # of a weight that is out of range: such a model refuses it
        return (text,)
    return "".join(pieces), " ".join(pieces)
