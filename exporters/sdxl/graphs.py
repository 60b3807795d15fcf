"""The UNets' served graphs as torch modules around diffusers' own: their tensors are those of
`darkroom.pipelines.sdxl.networks`, fp32 outside whatever the precision inside.

Dimensions: B rows, h x w latents (an eighth of the image along each side), T tokens, C the width of the text encoders,
P that of the projection, N numbers of the micro-conditioning, K channels: 4 of the latents, and in a checkpoint for
inpainting one of the mask and 4 of the masked image behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from exporters.graphs.attention import with_fused_attention
from exporters.graphs.controlnet import residuals
from exporters.graphs.unet import any_size

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel


class ServedUnet(nn.Module):
    """latents (B, K, h, w), timestep (B, 1), prompt_embeds (B, T, C), text_embeds (B, P), time_ids (B, N), all fp32
    -> noise_pred (B, 4, h, w) fp32."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = any_size(unet)

    def forward(
        self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, text_embeds: Tensor, time_ids: Tensor
    ) -> Tensor:
        kind = self.unet.dtype
        # The sinusoids of the timestep and of the sizes are fp32 inside diffusers, whatever the weights are. The pooled
        # embeddings are joined with those of the sizes, and ONNX joins only what has one type.
        noise: Tensor = self.unet(
            latents.to(kind),
            timestep[:, 0],
            prompt_embeds.to(kind),
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": self.read(time_ids)},
            return_dict=False,
        )[0]
        return noise.float()

    def read(self, time_ids: Tensor) -> Tensor:
        """(B, N), as the UNet was trained with it."""
        return time_ids


class ServedControlUnet(nn.Module):
    """`ServedUnet` with its ControlNet, which reads the same conditions.

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
        text_embeds: Tensor,
        time_ids: Tensor,
        control_image: Tensor,
        controlnet_conditioning_scale: Tensor,
    ) -> Tensor:
        kind = self.unet.dtype
        sample, times, embeds = latents.to(kind), timestep[:, 0], prompt_embeds.to(kind)
        conditions = {"text_embeds": text_embeds, "time_ids": time_ids}  # in fp32: see `ServedUnet`
        added = residuals(
            self.controlnet,
            sample,
            times,
            embeds,
            control_image,
            controlnet_conditioning_scale,
            added_cond_kwargs=conditions,
        )
        noise: Tensor = self.unet(sample, times, embeds, added_cond_kwargs=conditions, **added, return_dict=False)[0]
        return noise.float()


class ServedRefinerUnet(ServedUnet):
    """`ServedUnet` with time_ids (B, 7): original height and width, crop top and left, target height and width, and the
    aesthetic score. A refiner was trained with the score in place of the target size, or without the score.

    :param scored: whether with the score.
    """

    def __init__(self, unet: UNet2DConditionModel, *, scored: bool) -> None:
        super().__init__(unet)
        self.scored = scored

    def read(self, time_ids: Tensor) -> Tensor:
        return torch.cat([time_ids[:, :4], time_ids[:, 6:]], dim=1) if self.scored else time_ids[:, :6]
