"""Prompts of any length with weighted words, as rows of token ids and back into embeddings.

The notation is that of the common web UI (AUTOMATIC1111, modules/prompt_parser.py): `(word)` is 1.1 times as strong,
`[word]` 1.1 times as weak, `(word:1.3)` 1.3 times as strong, they nest, and a backslash takes a bracket's meaning away.
Over 75 tokens a prompt is cut into chunks that are encoded one by one and laid end to end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.serving.networks import Array, Network

EMPHASIS = 1.1
WEIGHT_RANGE = (0.0, 10.0)
_RESCALE_RANGE = (0.5, 2.0)
_LEAST_MEAN = 0.02
"""If the mean is below this share of the mean absolute value, it is no measure of the values' size."""
_PIECE = re.compile(r"\\.|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` that is used."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding: ...


class Encoding(Protocol):
    """The part of `tokenizers.Encoding` that is used."""

    @property
    def ids(self) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """A prompt as rows for the text encoder.

    :param ids: (chunks, 77) int64, each row with begin, end and padding.
    :param weights: (chunks, 77) float32; 1 where nothing was said.
    """

    ids: Array
    weights: Array


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


def chunk(text: str, tokenizer: Tokenizer, checkpoint: Sd15CheckpointInfo, param: str = "prompt") -> Chunks:
    """Token ids and weights of one prompt, at least one chunk.

    :param param: the field that the text is from.
    :raises InvalidInput: a weight is out of range.
    """
    ids: list[int] = []
    weights: list[float] = []
    for words, weight in parse_weights(text, param):
        found = tokenizer.encode(words, add_special_tokens=False).ids
        ids += found
        weights += [weight] * len(found)
    size = checkpoint.max_tokens - 2
    rows = [_row(ids[at : at + size], checkpoint) for at in range(0, max(len(ids), 1), size)]
    factors = np.ones((len(rows), checkpoint.max_tokens), np.float32)
    for at, weight in enumerate(weights):
        factors[at // size, 1 + at % size] = weight
    return Chunks(ids=np.array(rows, np.int64), weights=factors)


def _row(ids: Sequence[int], checkpoint: Sd15CheckpointInfo) -> list[int]:
    row = [checkpoint.bos_token_id, *ids, checkpoint.eos_token_id]
    return row + [checkpoint.pad_token_id] * (checkpoint.max_tokens - len(row))


async def encode_prompts(
    texts: Sequence[str], tokenizer: Tokenizer, checkpoint: Sd15CheckpointInfo, text_encoder: Network
) -> Array:
    """(len(texts), 77 x chunks, width) float32. Shorter prompts get empty chunks; all rows travel in one call.

    :param texts: the prompt, or the negative prompt and the prompt.
    :raises InvalidInput: a weight is out of range.
    """
    fields = ("negative_prompt", "prompt")[-len(texts) :]
    parts = [chunk(text, tokenizer, checkpoint, field) for text, field in zip(texts, fields, strict=True)]
    length = max(len(part.ids) for part in parts)
    empty = np.array([_row([], checkpoint)], np.int64)
    rows = np.concatenate([row for part in parts for row in (part.ids, *[empty] * (length - len(part.ids)))])
    states = (await text_encoder({"input_ids": rows}))["prompt_embeds"]
    states = states.reshape(len(texts), length * checkpoint.max_tokens, -1)
    return np.stack([_weighted(row, part.weights) for row, part in zip(states, parts, strict=True)])


def _weighted(embeds: Array, weights: Array) -> Array:
    """Scale each token's row, then each chunk so that its mean is as before, as the web UI does.

    Where the mean is so near to zero that it is no measure of size (by `_LEAST_MEAN` and `_RESCALE_RANGE`) the second
    part is left out, which is the web UI's "No norm"; chunks without weights are not touched at all.

    :param embeds: (tokens of all chunks, width).
    :param weights: (chunks, tokens), without the empty chunks at the end.
    """
    weighted = embeds.copy()
    for chunk, factors in zip(weighted.reshape(-1, weights.shape[1], embeds.shape[-1]), weights, strict=False):
        if (factors == 1).all():
            continue
        before, least = float(chunk.mean()), _LEAST_MEAN * float(np.abs(chunk).mean())
        chunk *= factors[:, None]
        after = float(chunk.mean())
        ratio = before / after if after and abs(before) > least else 0.0
        if _RESCALE_RANGE[0] <= ratio <= _RESCALE_RANGE[1]:
            chunk *= np.float32(ratio)
    return weighted
