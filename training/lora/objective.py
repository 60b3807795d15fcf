"""The training loss of a LoRA: the error of the predicted noise or velocity, weighted by the noise level.

DDPM (Ho et al. 2020), velocity (Salimans and Ho 2022, section 4), Min-SNR weighting (Hang et al. 2023, section 3.4).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from darkroom.errors import InvalidInput

MIN_SNR_GAMMA = 5.0
EPSILON, VELOCITY = "epsilon", "v_prediction"


class Objective:
    """Noisy latents, what the UNet shall predict, and the error, for the noise schedule of a checkpoint.

    :ivar prediction: EPSILON or VELOCITY.
    """

    def __init__(self, root: Path) -> None:
        """
        :param root: the folder of the checkpoint.
        :raises InvalidInput: its UNet predicts something else.
        """
        from diffusers import DDPMScheduler

        self._scheduler = DDPMScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
        self.prediction = str(self._scheduler.config.prediction_type)
        if self.prediction not in (EPSILON, VELOCITY):
            raise InvalidInput(
                f"prediction_type of the checkpoint must be {EPSILON} or {VELOCITY}; got {self.prediction!r}.",
                param="checkpoint",
            )
        signal = self._scheduler.alphas_cumprod.double()
        snr = signal / (1 - signal)
        whole = snr if self.prediction == EPSILON else snr + 1
        self._weights = (snr.clamp(max=MIN_SNR_GAMMA) / whole).float()

    def noisy(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, channels, height, width) float32 -> noisy latents, the target (both like them), (rows,) timesteps."""
        noise = torch.randn(latents.shape, generator=generator)
        steps = torch.randint(len(self._weights), (len(latents),), generator=generator)
        noisy: Tensor = self._scheduler.add_noise(latents, noise, steps)
        target: Tensor = noise if self.prediction == EPSILON else self._scheduler.get_velocity(latents, noise, steps)
        return noisy, target, steps

    def loss(self, predicted: Tensor, target: Tensor, steps: Tensor) -> Tensor:
        """The weighted mean squared error of a batch, in fp32."""
        squared = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        weighted: Tensor = self._weights.to(steps.device)[steps] * squared
        return weighted.mean()


def generator_of(seed: int, step: int) -> torch.Generator:
    """The random numbers of a step. They are made on the CPU, so that they are the same on every device."""
    number = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(number >> 1)
