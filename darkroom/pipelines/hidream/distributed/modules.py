"""The layers of a divided HiDream transformer: diffusers' own arithmetic on a rank's part, and what joins the parts.

Every rank has every token. After each layer here all ranks of a group hold the same bits, because a sum over ranks
gives every one of them the same result. Two groups sum for themselves and may round differently, so where there are
several one rank's gate routes for all: else a token could go to two experts for one, or to none.

`torch.distributed.tensor.parallel` has the two linear layers as well. They are not used because a DTensor's dispatch
costs more than the layer itself at few rows, and it has no plan for a norm across a cut dimension, nor for experts
that are called or not as the gate says (decision 12).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor, nn

from darkroom.parallel.layers import sum_over
from darkroom.parallel.program import Group


class FullWidthRMSNorm(nn.Module):
    """RMS norm over a width that is cut: the squares are summed over the ranks. (..., width / n) -> same.

    The one of the checkpoint runs over all heads together (q and k before they are split into heads), so a norm of the
    rank's own part would be another function. Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def __init__(self, norm: nn.RMSNorm, group: Group) -> None:
        super().__init__()
        assert norm.eps is not None
        self.weight, self._eps, self._group = norm.weight, norm.eps, group
        (self._width,) = norm.normalized_shape

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        squares = sum_over(wide.square().sum(-1, keepdim=True), self._group)
        return (wide * torch.rsqrt(squares / self._width + self._eps) * self.weight).to(x.dtype)


class ExpertFeedForward(nn.Module):
    """A mixture of experts of which this rank has parts of some: (rows, tokens, dim) -> same.

    Follows `MOEFeedForwardSwiGLU.moe_infer`. Routed and shared experts are all partial sums, so one sum over all ranks
    ends the layer. Tokens need not be sent to their experts: every rank has them.

    :param moe: the layer; its `w2` are already cut by rows.
    :param mine: numbers of the routed experts that are held here.
    :param agree: whether rank 0 routes for all.
    """

    def __init__(self, moe: MOEFeedForwardSwiGLU, mine: range, group: Group, *, agree: bool) -> None:
        super().__init__()
        self.gate, self.shared_experts, self._group, self._agree = moe.gate, moe.shared_experts, group, agree
        self.experts = nn.ModuleDict({str(number): moe.experts[number] for number in mine})

    def forward(self, x: Tensor) -> Tensor:
        chosen, weights, _ = self.gate(x)  # (rows * tokens, experts per token) each
        if self._agree:
            for routed in (chosen, weights):
                dist.broadcast(routed, 0, group=self._group)
        tokens = x.reshape(-1, x.shape[-1])
        out = self.shared_experts(tokens)
        for number, expert in self.experts.items():
            token, choice = torch.where(chosen == int(number))
            if len(token):
                out.index_add_(0, token, expert(tokens[token]) * weights[token, choice, None])
        return sum_over(out, self._group).view(x.shape)
