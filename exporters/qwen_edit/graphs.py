"""Encoder and decoder of the VAE of Qwen-Image as served graphs, for a single frame.

It is a VAE for video: its convolutions see two frames before each. Before a single frame there are none but zeros, so
that only the last slice of each kernel counts, and the graph has plain convolutions of images (decision 6, folding).
Dimensions: B rows, K latent channels, h x w latents (an eighth of the image).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exporters.graphs.attention import multi_head_attention

if TYPE_CHECKING:
    from diffusers import AutoencoderKLQwenImage


class FrameConvolution(nn.Module):
    """What a causal convolution over frames does with a single one: (B, C, 1, H, W) -> the same with other channels."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        left, right, top, bottom, _, _ = original._padding
        assert (left, top) == (right, bottom)
        self.flat = nn.Conv2d(
            original.in_channels,
            original.out_channels,
            original.kernel_size[1:],
            stride=original.stride[1:],
            padding=(top, left),
            bias=original.bias is not None,
            device="meta",
        )
        self.flat.weight = nn.Parameter(original.weight[:, :, -1].detach().contiguous(), requires_grad=False)
        if original.bias is not None:
            self.flat.bias = nn.Parameter(original.bias.detach(), requires_grad=False)

    def forward(self, frames: Tensor, cache_x: None = None) -> Tensor:
        made: Tensor = self.flat(frames[:, :, 0])
        return made[:, :, None]


class FrameAttention(nn.Module):
    """The attention of the VAE over the pixels of a single frame, (B, C, 1, H, W) -> the same, as one operator: spelled
    out it keeps a matrix of pixels x pixels, 1 GB for a megapixel."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.norm, self.proj, self.scale = original.norm, original.proj, original.dim**-0.5
        weights, biases = (part.detach().chunk(3) for part in (original.to_qkv.weight, original.to_qkv.bias))
        self.query, self.key, self.value = map(_linear, weights, biases)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = self.norm(frames[:, :, 0])
        tokens = pixels.flatten(2).transpose(1, 2)
        seen = multi_head_attention(self.query(tokens), self.key(tokens), self.value(tokens), 1, self.scale)
        made: Tensor = self.proj(seen.transpose(1, 2).reshape(pixels.shape))
        return frames + made[:, :, None]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The linear layer that a convolution of single pixels is.

    :param weight: (out, in, 1, 1).
    """
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight = nn.Parameter(weight[:, :, 0, 0].contiguous(), requires_grad=False)
    made.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return made


def single_frame(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """A copy of a VAE that takes single frames only. The weights of other frames are left out."""
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageAttentionBlock, QwenImageCausalConv3d

    made = copy.deepcopy(vae)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QwenImageCausalConv3d):
                if name == "time_conv":  # between frames only
                    delattr(module, name)
                else:
                    setattr(module, name, FrameConvolution(child))
            elif isinstance(child, QwenImageAttentionBlock):
                setattr(module, name, FrameAttention(child))
    return made


def latents_scale(vae: AutoencoderKLQwenImage) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of latents, (1, K, 1, 1) each, with which they are normalised."""
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return mean[None, :, None, None], std[None, :, None, None]


class _ServedVae(nn.Module):
    """A VAE for single frames, and the scale of its latents."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__()
        self.vae = single_frame(vae)
        mean, std = latents_scale(vae)
        self.register_buffer("latents_mean", mean, persistent=False)
        self.register_buffer("latents_std", std, persistent=False)


class ServedVaeEncoder(_ServedVae):
    """image (B, 8h, 8w, 3) uint8 -> mean of the posterior (B, K, h, w) fp32, normalised."""

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        moments = self.vae.quant_conv(self.vae.encoder(pixels.to(self.vae.dtype)))
        mean: Tensor = moments[:, : self.vae.config.z_dim, 0].float()
        return (mean - self.latents_mean) / self.latents_std


class ServedVaeDecoder(_ServedVae):
    """latents (B, K, h, w) fp32, normalised -> image (B, 8h, 8w, 3) uint8.

    The pixels are those of diffusers' VaeImageProcessor: to 0..1, cut off, times 255, rounded half to even.
    """

    def forward(self, latents: Tensor) -> Tensor:
        scaled = (latents * self.latents_std + self.latents_mean)[:, :, None]
        decoded = self.vae.decoder(self.vae.post_quant_conv(scaled.to(self.vae.dtype)))[:, :, 0].float()
        pixels = (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        rounded: Tensor = (pixels * 255).round()
        return rounded.to(torch.uint8)
