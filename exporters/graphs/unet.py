"""UNets that take every size: diffusers' own asks for numbers that a graph for all sizes cannot give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from exporters.graphs.attention import with_fused_attention

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class _Upsample(nn.Module):
    """diffusers' Upsample2D (nearest, then a convolution) that always takes its size from the next residual.

    Upsample2D asks for the number of elements, which a graph for all sizes cannot answer.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden_states: Tensor, output_size: Any) -> Tensor:
        enlarged = F.interpolate(hidden_states, size=output_size, mode="nearest")
        result: Tensor = self.conv(enlarged)
        return result


def any_size(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy, sharing the weights, that does for all sizes what diffusers does for odd ones.

    UNet2DConditionModel.forward hands the size of the residuals on (`forward_upsample_size`) where a side is no
    multiple of 2 ** num_upsamplers. No side is a multiple of 2 ** 31, so the condition holds for every size.
    """
    flexible = with_fused_attention(unet)
    flexible.num_upsamplers = 31
    for block in flexible.up_blocks:
        if block.upsamplers is not None:
            block.upsamplers = nn.ModuleList([_Upsample(upsampler.conv) for upsampler in block.upsamplers])
    return flexible
