"""Rows of different sizes, prompts and numbers of images in one batch: what of them is padding, and their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Grid = tuple[int, int]
"""Height and width of an image in tokens."""


@dataclass(frozen=True)
class Rows:
    """What the rows of a batch are of.

    :param grids: of the images of each row, the noisy one first.
    :param texts: tokens of the text of each row.
    """

    grids: Sequence[Sequence[Grid]]
    texts: Sequence[int]

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor]) -> Rows:
        """The rows of a call of the transformer.

        :raises ValueError: a row has more tokens than its tensors.
        """
        grids = [[(height, width) for height, width in row if height * width > 0] for row in inputs["grids"].tolist()]
        rows = cls(grids, counts(inputs["text_tokens"]))
        require_room("hidden_states", inputs, rows.tokens)
        require_room("encoder_hidden_states", inputs, rows.texts)
        return rows

    @property
    def tokens(self) -> list[int]:
        """Tokens of all images of each row."""
        return [sum(height * width for height, width in row) for row in self.grids]

    @property
    def noisy(self) -> list[int]:
        """Tokens of the noisy image of each row."""
        return [row[0][0] * row[0][1] for row in self.grids]

    def mask(self, device: torch.device) -> Tensor | None:
        """(B, 1, 1, T + S) bool, True for what is no padding; None where there is none, which is faster."""
        if len(set(self.tokens)) == len(set(self.texts)) == 1:
            return None
        padding = [tokens_from(counts, max(counts), device) for counts in (self.texts, self.tokens)]
        return ~torch.cat(padding, dim=1)[:, None, None]

    def rotary(self, positions: Any, device: torch.device) -> Tensor:
        """The rotary embeddings (B, T + S, head / 2) complex: text, then images; padding has zeros.

        :param positions: diffusers' QwenEmbedRope.
        """
        made = []
        for grids, text in zip(self.grids, self.texts, strict=True):
            shapes = [[(1, height, width) for height, width in grids]]
            image, words = positions(shapes, max_txt_seq_len=text, device=torch.device("cpu"))
            ends = max(self.texts) - len(words), max(self.tokens) - len(image)
            made.append(torch.cat([pad(words, (0, 0, 0, ends[0])), pad(image, (0, 0, 0, ends[1]))]))
        return torch.stack(made).to(device)


def counts(numbers: Tensor) -> list[int]:
    """(B, 1) numbers of tokens as integers."""
    return [int(number) for number in numbers.flatten().tolist()]


def require_room(name: str, inputs: Mapping[str, Tensor], counts: Sequence[int]) -> None:
    """:raises ValueError: a row has none, or more tokens than its tensor."""
    most = inputs[name].shape[1]
    if not 1 <= min(counts) <= max(counts) <= most:
        raise ValueError(f"{name} has {most} tokens in each row; its rows say {list(counts)}")


def tokens_from(first: Sequence[int], length: int, device: torch.device) -> Tensor:
    """(B, length) bool: True from the position `first` of each row on."""
    return torch.arange(length, device=device)[None] >= torch.tensor(first, device=device)[:, None]
