"""Weighted words in prompts.

The notation is that of the common web UI (AUTOMATIC1111, modules/prompt_parser.py): `(word)` is 1.1 times as strong,
`[word]` 1.1 times as weak, `(word:1.3)` 1.3 times as strong, they nest, and a backslash takes a bracket's meaning away.
"""

from __future__ import annotations

import re

from darkroom.errors import InvalidInput

EMPHASIS = 1.1
WEIGHT_RANGE = (0.0, 10.0)
_PIECE = re.compile(r"\\.|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)


def parse_weights(text: str, param: str = "prompt") -> list[tuple[str, float]]:
    """Pieces of a prompt with their weights, in order. Brackets that are never closed count to the end.

    :param param: the field that the text is from.
    :raises InvalidInput: a weight is out of WEIGHT_RANGE.
    """
    pieces: list[tuple[str, float]] = []
    open_brackets: list[tuple[str, int]] = []

    def multiply(since: int, factor: float) -> None:
        pieces[since:] = [(words, weight * factor) for words, weight in pieces[since:]]

    for found in _PIECE.finditer(text):
        token = found.group()
        if token in ("(", "["):
            open_brackets.append((token, len(pieces)))
        elif token[0] == ":" and token[-1] == ")" and _opened(open_brackets, "("):
            multiply(open_brackets.pop()[1], float(token[1:-1]))
        elif token == ")" and _opened(open_brackets, "("):
            multiply(open_brackets.pop()[1], EMPHASIS)
        elif token == "]" and _opened(open_brackets, "["):
            multiply(open_brackets.pop()[1], 1 / EMPHASIS)
        else:
            pieces.append((token[1:] if token[0] == "\\" and len(token) > 1 else token, 1.0))
    for bracket, since in reversed(open_brackets):
        multiply(since, EMPHASIS if bracket == "(" else 1 / EMPHASIS)
    return _merged(pieces, param)


def _opened(brackets: list[tuple[str, int]], kind: str) -> bool:
    return bool(brackets) and brackets[-1][0] == kind


def _merged(pieces: list[tuple[str, float]], param: str) -> list[tuple[str, float]]:
    """Neighbours of one weight become one piece: a word must not be torn apart before it meets the tokenizer."""
    low, high = WEIGHT_RANGE
    merged: list[tuple[str, float]] = []
    for words, weight in pieces:
        if not low <= weight <= high:
            raise InvalidInput(
                f"{param}: a weight must be from {low:g} to {high:g}; got {weight:g} for {words[:40]!r}.", param=param
            )
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + words, weight)
        else:
            merged.append((words, weight))
    return merged
