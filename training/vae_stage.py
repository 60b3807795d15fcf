"""The VAE's training: 64-pixel crops first, whole images at the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training.render import SIDE, render
from training.trainer import TrainingRun, TrainingStage, averaged_weights, state_path
from training.world import training_scenes

POOL = 2048
_STEPS_PER_POOL = 400
_CROP = 64
_WHOLE_FROM = 0.8
"""Share of the budget after which whole images are shown, for the attention in the middle sees more tokens there."""
_KL = 4e-4
"""Of a latent's KL where a place has four of them, as in Stable Diffusion; each of sixteen is pulled as hard."""
_PER_PLACE = 4


def trained_vae(run: TrainingRun, stage: str, vae: AutoencoderKL) -> AutoencoderKL:
    """`vae` with the averaged weights of that stage, in evaluation mode, on the device of `run`.

    :raises FileNotFoundError: the stage was never trained.
    """
    vae.load_state_dict(averaged_weights(run, stage)["vae"])
    return vae.to(run.device).eval().requires_grad_(False)


class LatentScale(nn.Module):
    """Carries the VAE's scaling factor in the state: latents times it have a standard deviation of 1."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))


def scale_of(vae: AutoencoderKL) -> LatentScale:
    """Return the scaling factor from the config of a checkpoint's VAE."""
    scale = LatentScale()
    scale.factor.copy_(torch.tensor(float(vae.config.scaling_factor)))
    return scale


class VaeStage(TrainingStage):
    """Reconstruction by L1, squared error and the L1 of gradients (edges), with a tiny KL."""

    learning_rate = 2e-3

    def __init__(self, run: TrainingRun, name: str, make: Callable[[], Any], *, after: str | None = None) -> None:
        """
        :param make: the VAE. One of another class than AutoencoderKL needs other `posterior` and `decoded`.
        :param after: a stage of another VAE that has learned of the same images: this one begins with its weights,
            where it was trained in the same folder.
        """
        torch.manual_seed(run.seed)
        self.name = name
        self.run = run
        self.vae = make()
        if after is not None and state_path(run, after).is_file():
            _begin_with(self.vae, averaged_weights(run, after)["vae"])
        self.modules = nn.ModuleDict({"vae": self.vae})
        self.batch = 128 if run.cuda else 32
        self._pool = torch.empty(0)
        self._pool_number = -1
        self._psnr = 0.0

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step, on="cpu")  # where the images are cut
        pictures = self._pictures(step, progress, generator).to(self.run.device)
        with self.run.autocast():
            posterior = self.posterior(pictures)
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.run.device)
            decoded = self.decoded(posterior.mean + posterior.std * noise)
        decoded = decoded.float()
        squared = functional.mse_loss(decoded, pictures)
        self._psnr += 0.02 * (10 * torch.log10(4 / squared.detach()).item() - self._psnr)
        kl = posterior.kl().float().mean() / (_PER_PLACE * posterior.mean[0, 0].numel())
        edges = _edge_loss(decoded, pictures) + _edge_loss(
            functional.avg_pool2d(decoded, 2), functional.avg_pool2d(pictures, 2)
        )
        return functional.l1_loss(decoded, pictures) + squared + 0.5 * edges + _KL * kl, len(pictures)

    def posterior(self, pictures: Tensor) -> Any:
        """(B, 3, H, W) -> diffusers' DiagonalGaussianDistribution over (B, C, h, w)."""
        return self.vae.encode(pictures).latent_dist

    def decoded(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        made: Tensor = self.vae.decode(latents).sample
        return made

    def render_pool(self, seed: int) -> Tensor:
        """(2048, 3, 128, 128) uint8 images to learn from; others for each seed."""
        return _render_pool(seed)

    def notes(self) -> str:
        return f"(PSNR {self._psnr:.1f} dB)"

    def _pictures(self, step: int, progress: float, generator: torch.Generator) -> Tensor:
        """(B, 3, 64, 64) crops or (B/4, 3, 128, 128) images, float32, -1 to 1."""
        if self._pool_number != step // _STEPS_PER_POOL:
            self._pool_number = step // _STEPS_PER_POOL
            self._pool = self.render_pool(self.run.seed * 100_003 + self._pool_number)
        if progress >= _WHOLE_FROM:
            chosen = self._pool[torch.randint(POOL, (self.batch // 4,), generator=generator)]
            return chosen.float() / 127.5 - 1
        index = torch.randint(POOL, (self.batch,), generator=generator).tolist()
        corners = torch.randint(SIDE - _CROP + 1, (self.batch, 2), generator=generator).tolist()
        crops = [self._pool[i, :, y : y + _CROP, x : x + _CROP] for i, (y, x) in zip(index, corners, strict=True)]
        return torch.stack(crops).float() / 127.5 - 1


def _begin_with(vae: AutoencoderKL, weights: dict[str, Tensor]) -> None:
    """Give `vae` those of the weights that have the shapes of its own: all but the layers next to the latents."""
    own = vae.state_dict()
    vae.load_state_dict({**own, **{name: weights[name] for name in own if weights[name].shape == own[name].shape}})


def _render_pool(seed: int) -> Tensor:
    """(2048, 3, 128, 128) uint8 images of training scenes."""
    rng = random.Random(seed)
    pictures = np.stack([render(scene, rng) for scene in islice(training_scenes(seed), POOL)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _edge_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 between the differences of neighbours, down and across."""
    total = made.new_zeros(())
    for dim in (2, 3):
        total = total + functional.l1_loss(made.diff(dim=dim), wanted.diff(dim=dim))
    return total
