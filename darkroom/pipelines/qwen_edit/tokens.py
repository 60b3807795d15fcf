"""Latents as tokens of the transformer, and rows padded so that those of other requests fit beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from darkroom.pipelines.qwen_edit.checkpoint import PATCH_SIZE
from darkroom.pipelines.qwen_edit.networks import GRIDS
from darkroom.serving.networks import Array

SMALLEST_BUCKET = 256
"""Tokens; below it everything fits together."""


def pack(latents: Tensor) -> Tensor:
    """(n, C, h, w) latents -> (n, h w / 4, 4 C) tokens: `_pack_latents` of diffusers' Qwen-Image pipelines."""
    rows, channels, height, width = latents.shape
    split = latents.view(rows, channels, height // PATCH_SIZE, PATCH_SIZE, width // PATCH_SIZE, PATCH_SIZE)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH_SIZE**2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """(n, h w / 4, 4 C) tokens -> (n, C, h, w) latents: the inverse of `pack`.

    :param height, width: of the latents.
    """
    rows, _, numbers = tokens.shape
    split = tokens.view(rows, height // PATCH_SIZE, width // PATCH_SIZE, -1, PATCH_SIZE, PATCH_SIZE)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(rows, numbers // PATCH_SIZE**2, height, width)


def grid_of(latents: Tensor) -> tuple[int, int]:
    """Height and width in tokens of latents (..., h, w)."""
    return latents.shape[-2] // PATCH_SIZE, latents.shape[-1] // PATCH_SIZE


def bucket(tokens: int) -> int:
    """The length to which `tokens` are padded: a power of two, so that rows of many sizes have the same shape."""
    return max(SMALLEST_BUCKET, 1 << (tokens - 1).bit_length())


def padded(rows: Sequence[Array]) -> Array:
    """Rows (tokens, width) of any lengths -> (n, bucket, width), with zeros behind them."""
    made = np.zeros((len(rows), bucket(max(map(len, rows))), rows[0].shape[-1]), np.float32)
    for index, row in enumerate(rows):
        made[index, : len(row)] = row
    return made


def padded_grids(grids: Sequence[tuple[int, int]]) -> Array:
    """Heights and widths in tokens -> (GRIDS, 2) int32, with zeros behind them."""
    made = np.zeros((GRIDS, 2), np.int32)
    made[: len(grids)] = grids
    return made


def guide(velocity: Tensor, unwanted: Tensor, scale: float) -> Tensor:
    """True classifier-free guidance, scaled back to the length that each token had: step 6 of diffusers' pipelines.

    :param velocity, unwanted: (n, tokens, numbers), of the prompt and of the negative prompt.
    """
    guided = unwanted + scale * (velocity - unwanted)
    before, after = (torch.linalg.vector_norm(states, dim=-1, keepdim=True) for states in (velocity, guided))
    rescaled: Tensor = guided * (before / after)
    return rescaled
