"""The served graphs as torch modules around diffusers' own: their tensors are those of
`darkroom.pipelines.sd15.networks`, fp32 outside whatever the precision inside.

Dimensions: B rows, h x w latents (an eighth of the picture along each side), T tokens, C the text encoder's width.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from exporters.sd15.attention import FusedAttention

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel

Module = TypeVar("Module", bound=nn.Module)
Network = TypeVar("Network", "UNet2DConditionModel", "ControlNetModel", "AutoencoderKL")


def sharing_copy(module: Module) -> Module:
    """A copy whose structure can be changed while its weights stay those of the original, in the same memory."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


class ServedTextEncoder(nn.Module):
    """input_ids (B, T) int64 -> prompt_embeds (B, T, C) fp32: the last hidden state after the final layer norm."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return embeds.float()


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


def with_fused_attention(network: Network) -> Network:
    """A copy of a UNet, ControlNet or VAE, sharing the weights, with attention as one operator."""
    copied = sharing_copy(network)
    copied.set_attn_processor(FusedAttention())
    return copied


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


class ServedUnet(nn.Module):
    """latents (B, 4, h, w), timestep (B, 1), prompt_embeds (B, T, C), all fp32 -> noise_pred (B, 4, h, w) fp32."""

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
        picture = (control_image.permute(0, 3, 1, 2).float() / 255).to(kind)
        down, middle = self.controlnet(sample, times, embeds, controlnet_cond=picture, return_dict=False)
        scale = controlnet_conditioning_scale[:, :, None, None].to(kind)
        noise: Tensor = self.unet(
            sample,
            times,
            embeds,
            down_block_additional_residuals=[residual * scale for residual in down],
            mid_block_additional_residual=middle * scale,
            return_dict=False,
        )[0]
        return noise.float()


class ServedVaeEncoder(nn.Module):
    """image (B, 8h, 8w, 3) uint8 -> mean and std of the posterior (B, 4, h, w) fp32, times the scaling factor."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = with_fused_attention(vae)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        # In fp32: exp(logvar / 2) of narrow posteriors is tiny.
        std = torch.exp(0.5 * posterior.logvar.float())
        factor = self.vae.config.scaling_factor
        return posterior.mean.float() * factor, std * factor


class ServedVaeDecoder(nn.Module):
    """latents (B, 4, h, w) fp32 -> image (B, 8h, 8w, 3) uint8.

    The pixels are those of diffusers' VaeImageProcessor: to 0..1, cut off, times 255, rounded half to even.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = with_fused_attention(vae)

    def forward(self, latents: Tensor) -> Tensor:
        scaled = latents / self.vae.config.scaling_factor
        decoded = self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0].float()
        pixels = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        rounded: Tensor = (pixels * 255).round()
        return rounded.to(torch.uint8)
