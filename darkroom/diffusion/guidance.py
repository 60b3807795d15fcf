"""Classifier-free guidance (Ho and Salimans 2022): the batch is doubled, and the prediction moves away from the rows
without the prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor


def doubled(rows: Tensor) -> Tensor:
    """(n, ...) -> (2n, ...): first the rows without the prompt, then those with it."""
    return torch.cat([rows, rows])


def guide(noise_pred: Tensor, guidance_scale: float) -> Tensor:
    """(2n, ...) predictions of `doubled` rows -> (n, ...): equation 6 with w = guidance_scale - 1."""
    unconditional, conditional = noise_pred.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)
