"""Adds noise for the training of UNets, and weights the error of each sample."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

_ALONE, _ALONE_FROM = 0.5, 750
"""Share of the samples that are noise alone, and their lowest timestep. Sampling begins with noise alone, but the last
timestep of Stable Diffusion's schedule still has 0.5 % of the image's variance (Lin et al. 2023), in which a UNet
finds the right one of two images that change places in nine cases of ten: it never had to learn which of two things
the sentence puts on the left. Images of few steps begin at 750."""
_SNR_LIMIT = 5.0
"""Above this signal-to-noise ratio a sample's error counts less, as in Min-SNR weighting (Hang et al. 2023). Below it
every error counts alike: what an image shows is decided where the noise is strong, and there the error of epsilon is
so small that it teaches next to nothing."""


class Noiser:
    """Noisy latents, the velocity to predict (Salimans and Ho 2022, section 4), and the weighted error."""

    def __init__(self, scheduler: DDPMScheduler, device: torch.device, *, below: int | None = None) -> None:
        """
        :param below: the timesteps are those below this one, none of the samples is noise alone; None = all of them.
        """
        self.scheduler = scheduler
        self.below = below
        signal = self.scheduler.alphas_cumprod
        self.weights = (_SNR_LIMIT * (1 - signal) / signal).clamp(max=1).to(device)

    def __call__(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 4, h, w) -> noisy latents, the velocity (both like `latents`) and (B,) int64 timesteps."""
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        count, device = (len(latents),), latents.device
        alone = torch.rand(count, generator=generator, device=device) < (_ALONE if self.below is None else 0.0)
        lowest, end = torch.where(alone, _ALONE_FROM, 0), self.below or len(self.weights)
        shares = torch.rand(count, generator=generator, device=device)
        steps = (lowest + shares * (end - lowest)).long().clamp(max=end - 1)
        noisy: Tensor = self.scheduler.add_noise(latents, noise, steps)
        noisy = torch.where(alone[:, None, None, None], noise, noisy)
        velocity: Tensor = self.scheduler.get_velocity(latents, noise, steps)
        return noisy, velocity, steps

    def loss(self, predicted: Tensor, velocity: Tensor, steps: Tensor) -> Tensor:
        squared = (predicted.float() - velocity).square().mean(dim=(1, 2, 3))
        weighted: Tensor = self.weights[steps] * squared
        return weighted.mean()


def attend_plainly(
    device: torch.device,
    text_encoder: CLIPTextModel | CLIPTextModelWithProjection,
    *models: UNet2DConditionModel | ControlNetModel,
) -> None:
    """On a CPU, attend by two products and a softmax: torch 2.13's fused attention is slow backwards there, and a step
    of the UNet takes 1.4 times as long. On CUDA the fused one stays. The function is the same."""
    if device.type == "cpu":
        text_encoder.set_attn_implementation("eager")
        for model in models:
            model.set_attn_processor(AttnProcessor())
