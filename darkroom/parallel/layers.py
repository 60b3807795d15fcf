"""Linear layers that join what ranks have computed in parts.

Every rank has every token. Behind each layer all ranks of a group hold the same bits, because a sum over ranks gives
every one of them the same result. `torch.distributed.tensor.parallel` has these layers as well; a DTensor's dispatch
costs more than the layer itself at few rows (decision 12).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from darkroom.parallel.program import Group


def sum_over(partial: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' `partial`, which is overwritten by it."""
    dist.all_reduce(partial, group=group)
    return partial


class RowLinear(nn.Module):
    """A linear layer whose inputs are cut: (..., in / n) -> (..., out), the bias added once."""

    def __init__(self, linear: nn.Linear, group: Group) -> None:
        super().__init__()
        self.weight, self.bias, self._group = linear.weight, linear.bias, group

    def forward(self, x: Tensor) -> Tensor:
        out = sum_over(functional.linear(x, self.weight), self._group)
        return out if self.bias is None else out + self.bias


class GatheredLinear(nn.Module):
    """A linear layer whose outputs are cut and gathered: (rows, in) -> (rows, out) on every rank."""

    def __init__(self, linear: nn.Linear, group: Group) -> None:
        super().__init__()
        self.weight, self.bias, self._group = linear.weight, linear.bias, group

    def forward(self, x: Tensor) -> Tensor:
        part = functional.linear(x, self.weight, self.bias)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(parts, part, group=self._group)
        return torch.cat(parts, dim=1)
