"""Words in a prompt that change from step to step.

The notation is that of the common web UI (AUTOMATIC1111, modules/prompt_parser.py):

- `[a:b:0.5]` is a up to half of the steps, then b; `[b:0.5]` adds b there, `[a::0.5]` takes a away. A number with a
  decimal point or below 1 is a share of the steps, another one a number of steps;
- `[a|b|c]` is a at the first step, b at the second, c at the third, then a again.

They nest, also inside of `(…:1.2)`, and a backslash takes a sign's meaning away. Everything else is text, which
`darkroom.prompts.weights` reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

_PIECE = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
_PAIRS = {")": "(", "]": "["}


@dataclass(frozen=True)
class Switch:
    """`[before:after:when]`

    :param when: how many steps have `before`: a share of all steps, or their number.
    """

    before: Parts
    after: Parts
    when: float
    share: bool

    def at(self, index: int, steps: int) -> Parts:
        """What stands here at a step, counted from 0."""
        when = self.when * steps if self.share else self.when
        return self.before if index < int(max(0.0, min(when, steps))) else self.after


@dataclass(frozen=True)
class Alternation:
    """`[a|b|c]`"""

    options: tuple[Parts, ...]

    def at(self, index: int, steps: int) -> Parts:
        """What stands here at a step, counted from 0."""
        return self.options[index % len(self.options)]


Parts: TypeAlias = "tuple[str | Switch | Alternation, ...]"


@dataclass
class _Open:
    """A bracket that is not closed yet.

    :param since: the index of the first part behind it.
    :param signs: indices of the `:` and `|` between it and its end.
    """

    bracket: str
    since: int
    signs: list[int] = field(default_factory=list)


def parse_changes(text: str) -> Parts:
    """The parts of a prompt in order. Never raises: what fits no notation is text, as it stands.

    A prompt in which nothing changes is one part (none if it is empty).
    """
    parts: list[str | Switch | Alternation] = []
    opened: list[_Open] = []
    for found in _PIECE.finditer(text):
        piece = found.group()
        inner = opened[-1].bracket if opened else ""
        if piece in _PAIRS and inner == _PAIRS[piece]:
            bracket = opened.pop()
            if change := _change(parts, bracket):
                parts[bracket.since - 1 :] = [change]
                continue
        elif piece in _PAIRS.values():
            opened.append(_Open(piece, len(parts) + 1))
        elif piece in (":", "|") and inner == "[":
            opened[-1].signs.append(len(parts))
        parts.append(piece)
    return _joined(parts)


def count_changes(parts: Parts) -> int:
    """How many `Switch` and `Alternation` there are, with those inside of others."""
    count, todo = 0, list(parts)
    while todo:
        part = todo.pop()
        if isinstance(part, Switch):
            todo += (*part.before, *part.after)
        elif isinstance(part, Alternation):
            todo += (inner for option in part.options for inner in option)
        count += not isinstance(part, str)
    return count


def text_at(parts: Parts, index: int, steps: int) -> str:
    """The prompt at a step, which may still have weights and backslashes in it.

    :param index: of the step, from 0.
    """
    words: list[str] = []
    todo = list(reversed(parts))
    while todo:  # no recursion: brackets nest as deeply as the prompt is long
        part = todo.pop()
        if isinstance(part, str):
            words.append(part)
        else:
            todo += reversed(part.at(index, steps))
    return "".join(words)


def _change(parts: Sequence[str | Switch | Alternation], closed: _Open) -> Switch | Alternation | None:
    """What a bracket that ends behind `parts` stands for; None if it is none of this module's notations."""
    if not closed.signs:
        return None
    edges = [closed.since - 1, *closed.signs, len(parts)]
    between = [_joined(parts[before + 1 : after]) for before, after in pairwise(edges)]
    kinds = {parts[at] for at in closed.signs}
    if kinds == {"|"}:
        return Alternation(tuple(between))
    if kinds != {":"} or len(closed.signs) > 2:
        return None
    *words, last = between
    number = _NUMBER.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
    if number is None:
        return None
    value = float(number[1])
    before, after = words if len(words) == 2 else ((), words[0])
    return Switch(before, after, value, share="." in number[1] or value < 1)


def _joined(parts: Sequence[str | Switch | Alternation]) -> Parts:
    """The parts with neighbouring texts as one."""
    joined: list[str | Switch | Alternation] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)
