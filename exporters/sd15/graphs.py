"""The UNets' served graphs as torch modules around diffusers' own: their tensors are those of
`darkroom.pipelines.sd15.networks`, fp32 outside whatever the precision inside.

Dimensions: B rows, h x w latents (an eighth of the image along each side), T tokens, C the text encoder's width,
K channels: 4 of the latents, and in a checkpoint for inpainting one of the mask and 4 of the masked image behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from exporters.graphs.attention import with_fused_attention
from exporters.graphs.controlnet import residuals
from exporters.graphs.unet import any_size

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel


class ServedUnet(nn.Module):
    """latents (B, K, h, w), timestep (B, 1), prompt_embeds (B, T, C), all fp32 -> noise_pred (B, 4, h, w) fp32."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = any_size(unet)

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        kind = self.unet.dtype
        # The sinusoids of the timestep are fp32 inside diffusers, whatever the weights are.
        noise: Tensor = self.unet(latents.to(kind), timestep[:, 0], prompt_embeds.to(kind), return_dict=False)[0]
        return noise.float()


class ServedControlUnet(nn.Module):
    """`ServedUnet` with its ControlNet.

    Beside its inputs control_image (B, 8h, 8w, 3) uint8 and controlnet_conditioning_scale (B, 1) fp32, the factor of
    each row's residuals.
    """

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.unet = any_size(unet)
        self.controlnet = with_fused_attention(controlnet)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        prompt_embeds: Tensor,
        control_image: Tensor,
        controlnet_conditioning_scale: Tensor,
    ) -> Tensor:
        kind = self.unet.dtype
        sample, embeds, times = latents.to(kind), prompt_embeds.to(kind), timestep[:, 0]
        added = residuals(self.controlnet, sample, times, embeds, control_image, controlnet_conditioning_scale)
        noise: Tensor = self.unet(sample, times, embeds, **added, return_dict=False)[0]
        return noise.float()
