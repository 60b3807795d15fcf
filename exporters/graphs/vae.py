"""Encoder and decoder of a VAE. Dimensions: B rows, K latent channels, h x w latents (an eighth of the image)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from exporters.graphs.attention import with_fused_attention

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class ServedVaeEncoder(nn.Module):
    """image (B, 8h, 8w, 3) uint8 -> mean and std of the posterior (B, K, h, w) fp32, times the scaling factor."""

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
    """latents (B, K, h, w) fp32 -> image (B, 8h, 8w, 3) uint8.

    The pixels are those of diffusers' VaeImageProcessor: to 0..1, cut off, times 255, rounded half to even. A VAE with
    a shift reads latents / scaling_factor + shift_factor, which is (latents + shift) / scaling_factor.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = with_fused_attention(vae)
        self.shift = (vae.config.get("shift_factor") or 0.0) * vae.config.scaling_factor

    def forward(self, latents: Tensor) -> Tensor:
        shifted = latents + self.shift if self.shift else latents
        scaled = shifted / self.vae.config.scaling_factor
        decoded = self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0].float()
        pixels = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        rounded: Tensor = (pixels * 255).round()
        return rounded.to(torch.uint8)
