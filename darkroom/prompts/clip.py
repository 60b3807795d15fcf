"""Prompts of any length with weighted words, as rows of token ids for CLIP's text encoders and back into embeddings.

Over 75 tokens a prompt is cut into chunks that are encoded one by one and laid end to end, as the common web UI does it
(AUTOMATIC1111, modules/sd_hijack_clip.py). The word `BREAK` ends a chunk before it is full.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from darkroom.errors import InvalidInput
from darkroom.prompts.weights import parse_weights
from darkroom.serving.networks import Array, Network

_RESCALE_RANGE = (0.5, 2.0)
_LEAST_MEAN = 0.02
"""Below this share of the mean size of the values their mean says nothing of their size."""
MOST_CHUNKS = 512
"""Maximum number of chunks of all texts of one request together; two prompts of 4,000 characters have fewer."""
_BREAK = re.compile(r"\bBREAK\b")


class Encoding(Protocol):
    """What a tokenizer gives."""

    @property
    def ids(self) -> list[int]: ...


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` that is used."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding: ...


class SpecialTokens(Protocol):
    """What is known of a tokenizer beside its vocabulary."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a chunk, begin and end included (77)."""

    @property
    def bos_token_id(self) -> int: ...

    @property
    def eos_token_id(self) -> int: ...

    @property
    def pad_token_id(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """A prompt as rows for the text encoder.

    :param ids: (chunks, 77) int64, each row with begin, end and padding.
    :param weights: (chunks, 77) float32; 1 where nothing was said.
    """

    ids: Array
    weights: Array


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Several prompts as an encoder sees them, a row for each, float32.

    :param prompt_embeds: (n, 77 x chunks, width).
    :param text_embeds: (n, width of the projection): the pooled embedding of the first chunk; None where the encoder
        gives none.
    """

    prompt_embeds: Array
    text_embeds: Array | None


def chunk(text: str, tokenizer: Tokenizer, special: SpecialTokens) -> Chunks:
    """Token ids and weights of one text, at least one chunk.

    :raises InvalidInput: a weight is out of range.
    """
    size = special.max_tokens - 2
    rows: list[list[int]] = []
    factors: list[list[float]] = []
    for tokens in _sections(text, tokenizer):
        for at in range(0, max(len(tokens), 1), size):
            ids, weights = zip(*tokens[at : at + size], strict=True) if tokens else ((), ())
            rows.append(_row(ids, special))
            factors.append([1.0, *weights, *[1.0] * (special.max_tokens - 1 - len(weights))])
    return Chunks(ids=np.array(rows, np.int64), weights=np.array(factors, np.float32))


def _sections(text: str, tokenizer: Tokenizer) -> list[list[tuple[int, float]]]:
    """Token ids with their weights, in a list for each part between the words BREAK; at least one.

    As in the web UI, nothing comes of a BREAK at the end, and an empty chunk of one at the beginning.
    """
    sections: list[list[tuple[int, float]]] = [[]]
    for words, weight in parse_weights(text):
        for number, part in enumerate(_BREAK.split(words)):
            if number:
                sections.append([])
            sections[-1] += [(token, weight) for token in tokenizer.encode(part, add_special_tokens=False).ids]
    return sections if sections[-1] else sections[:-1] or sections


def common_length(parts: Sequence[Chunks]) -> int:
    """The number of chunks that all texts of a request get: that of the longest one.

    :raises InvalidInput: they would have more than MOST_CHUNKS together.
    """
    length = max(len(part.ids) for part in parts)
    if length * len(parts) > MOST_CHUNKS:
        raise InvalidInput(
            f"prompt: all texts of a request may have at most {MOST_CHUNKS} chunks of tokens; got {len(parts)} times "
            f"{length}. Long texts, BREAK, and words that change from step to step make chunks.",
            param="prompt",
        )
    return length


def _row(ids: Sequence[int], special: SpecialTokens) -> list[int]:
    row = [special.bos_token_id, *ids, special.eos_token_id]
    return row + [special.pad_token_id] * (special.max_tokens - len(row))


async def encode_chunks(
    parts: Sequence[Chunks], special: SpecialTokens, text_encoder: Network, *, length: int
) -> Encoded:
    """The embeddings of several prompts. All rows travel in one call.

    :param length: chunks of every prompt; shorter prompts get empty chunks.
    """
    empty = np.array([_row([], special)], np.int64)
    rows = np.concatenate([row for part in parts for row in (part.ids, *[empty] * (length - len(part.ids)))])
    answer = await text_encoder({"input_ids": rows})
    states = answer["prompt_embeds"].reshape(len(parts), length * special.max_tokens, -1)
    pooled = answer.get("text_embeds")
    return Encoded(
        prompt_embeds=np.stack([_weighted(row, part.weights) for row, part in zip(states, parts, strict=True)]),
        text_embeds=None if pooled is None else pooled[::length],
    )


async def encode_prompts(
    texts: Sequence[str], tokenizer: Tokenizer, special: SpecialTokens, text_encoder: Network
) -> Array:
    """(len(texts), 77 x chunks, width) float32: the embeddings of a single encoder.

    :raises InvalidInput: a weight is out of range, or there are too many chunks.
    """
    parts = [chunk(text, tokenizer, special) for text in texts]
    return (await encode_chunks(parts, special, text_encoder, length=common_length(parts))).prompt_embeds


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
