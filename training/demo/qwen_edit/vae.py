"""The VAE's training, and its quicker way with single frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageRMS_norm
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional

from darkroom.edit_modes.modes import MODES
from training.demo.qwen_edit.cases import training_cases
from training.demo.qwen_edit.models import make_vae
from training.demo.qwen_edit.pictures import Picture, draw
from training.trainer import TrainingRun, averaged_weights
from training.vae_stage import POOL, VaeStage


class _FrameConv(QwenImageCausalConv3d):  # type: ignore[misc]
    """A convolution over frames that sees one: only the last slice of the kernel counts, a convolution of images."""

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """(B, C, 1, H, W) -> the same with other channels."""
        padding = (self._padding[2], self._padding[0])
        made = functional.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], padding)
        return made[:, :, None]


class _FrameNorm(QwenImageRMS_norm):  # type: ignore[misc]
    """The norm in fewer passes over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + 1e-12).to(x.dtype)
        made: Tensor = x * scale * self.gamma.to(x.dtype)
        return made


def for_frames(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Let `vae`, in place, compute single frames quickly; the function and the weights stay the same."""
    quick = {QwenImageCausalConv3d: _FrameConv, QwenImageRMS_norm: _FrameNorm}
    for module in vae.modules():
        module.__class__ = quick.get(type(module), type(module))
    return vae


def posterior(
    vae: AutoencoderKLQwenImage, pictures: Tensor, encoder: Callable[..., Tensor] | None = None
) -> DiagonalGaussianDistribution:
    """(B, 3, H, W) -> the distribution of (B, 16, H/8, W/8), not normalised.

    :param encoder: that of the VAE, compiled; None = as it is.
    """
    moments = (encoder or vae.encoder)(pictures[:, :, None])
    return DiagonalGaussianDistribution(vae.quant_conv(moments)[:, :, 0])


def trained_vae(run: TrainingRun, stage: str) -> AutoencoderKLQwenImage:
    """The VAE with the averaged weights of that stage, in evaluation mode, on the device of `run`.

    :raises FileNotFoundError: the stage was never trained.
    """
    vae = make_vae()
    vae.load_state_dict(averaged_weights(run, stage)["vae"])
    return for_frames(vae).to(run.device).eval().requires_grad_(False)


class QwenVaeStage(VaeStage):
    """As of the other demo checkpoints, on the pictures of edits."""

    def __init__(self, run: TrainingRun, name: str) -> None:
        super().__init__(run, name, lambda: for_frames(make_vae()))
        self._encoder, self._decoder = (run.maybe_compiled(part) for part in (self.vae.encoder, self.vae.decoder))

    def posterior(self, pictures: Tensor) -> DiagonalGaussianDistribution:
        return posterior(self.vae, pictures, self._encoder)

    def decoded(self, latents: Tensor) -> Tensor:
        """Not limited to -1 to 1, as it is outside training: there would be no gradient."""
        made: Tensor = self._decoder(self.vae.post_quant_conv(latents[:, :, None]))[:, :, 0]
        return made

    def render_pool(self, seed: int) -> Tensor:
        pictures = np.stack([draw(picture) for picture in islice(_pictures(seed), POOL)])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _pictures(seed: int) -> Iterator[Picture]:
    """Pictures of edits of all modes, without end."""
    rng = random.Random(seed)
    cases = {mode: training_cases(seed, mode) for mode in MODES}
    while True:
        case = next(cases[rng.choice(tuple(MODES))])
        yield rng.choice((*case.given, case.wanted))
