"""Linear modules whose weights take a byte each: symmetric, with a scale for each output channel.

Only weights are rounded (W8A16): a module makes its weight again, in what the network computes in, each time it runs.
That halves what bf16 takes of memory; it does not make a network faster. It is plain torch, so that it runs wherever
torch does, and weights can be rounded one by one while they are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_LARGEST = 127


class Int8Linear(nn.Module):
    """As `nn.Linear`; its weight is `weight` (out, in) int8 times `scale` (out, 1).

    :param original: gives shapes and bias.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        device = original.weight.device
        self.register_buffer("weight", torch.empty(original.weight.shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.empty(original.out_features, 1, device=device))
        self.bias = original.bias

    def forward(self, states: Tensor) -> Tensor:
        return linear(states, self.weight * self.scale, self.bias)


def use_int8(model: nn.Module, parts: Sequence[str]) -> None:
    """Have the linear modules below `parts` of a model keep their weights in 8 bits; the model has no weights yet.

    :param parts: names of modules of the model. What is outside of them stays as it is: embeddings and first and last
        projections are small beside the layers, and count for much.
    """
    for part in parts:
        for name, module in list(model.get_submodule(part).named_modules(prefix=part)):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, Int8Linear(module))


def rounded(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The `weight` and the `scale` of an Int8Linear for a weight (out, in).

    :param dtype: of the scale: what the network computes in.
    """
    full = weight.float()
    scale = (full.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp(min=1e-12).to(dtype)
    scale = torch.where(scale > 0, scale, torch.finfo(dtype).tiny)  # of float16, which has no 1e-12
    return (full / scale.float()).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8), scale
