"""The training of the UNet and, from nothing beside it, the text encoder."""

from __future__ import annotations

from functools import partial

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from training.dataset import Samples, Source, make_tokenizer, mentions, tokenize
from training.demo.sd15.models import make_text_encoder, make_unet, training_scheduler
from training.networks import make_vae
from training.trainer import Report, TrainingRun, TrainingStage
from training.vae_stage import LatentScale, trained_vae

_DROP = 0.1
"""How many samples lose their sentence, for classifier-free guidance (Ho and Salimans 2022)."""
_STRAYS = 0.15
"""Share of the scenes with boxes in any of their positions. Where all of them are, a sentence of two things has sixteen
pictures, and what the UNet learns where the noise is strong is their mean. Where none is, a ControlNet would never
have seen what edges are to move."""
_ALONE, _ALONE_FROM = 0.5, 750
"""Share of the samples that are noise alone, and their lowest timestep. Sampling begins with noise alone, but the last
timestep of Stable Diffusion's schedule still has 0.5 % of the picture's variance (Lin et al. 2023), in which a UNet
finds the right one of two pictures that change places in nine cases of ten: it never had to learn which of two things
the sentence puts on the left. Pictures of few steps begin at 750."""
_PAIRED = ("left", "right", "above", "below")
"""Sentences of two things have one of these, and are drawn twice as often: which is where is the hardest to learn."""
_SNR_LIMIT = 5.0
"""Above this signal-to-noise ratio a sample's error counts less, as in Min-SNR weighting (Hang et al. 2023). Below it
every error counts alike: what a picture shows is decided where the noise is strong, and there the error of epsilon is
so small that it teaches next to nothing."""


class Noiser:
    """Noisy latents, the velocity to predict (Salimans and Ho 2022, section 4), and the weighted error."""

    def __init__(self, device: torch.device) -> None:
        self.scheduler = training_scheduler()
        signal = self.scheduler.alphas_cumprod
        self.weights = (_SNR_LIMIT * (1 - signal) / signal).clamp(max=1).to(device)

    def __call__(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 4, h, w) -> noisy latents, the velocity (both like `latents`) and (B,) int64 timesteps."""
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        count, device = (len(latents),), latents.device
        alone = torch.rand(count, generator=generator, device=device) < _ALONE
        lowest = torch.where(alone, _ALONE_FROM, 0)
        shares = torch.rand(count, generator=generator, device=device)
        steps = (lowest + shares * (len(self.weights) - lowest)).long().clamp(max=len(self.weights) - 1)
        noisy: Tensor = self.scheduler.add_noise(latents, noise, steps)
        noisy = torch.where(alone[:, None, None, None], noise, noisy)
        velocity: Tensor = self.scheduler.get_velocity(latents, noise, steps)
        return noisy, velocity, steps

    def loss(self, predicted: Tensor, velocity: Tensor, steps: Tensor) -> Tensor:
        squared = (predicted.float() - velocity).square().mean(dim=(1, 2, 3))
        weighted: Tensor = self.weights[steps] * squared
        return weighted.mean()


def attend_plainly(
    device: torch.device, text_encoder: CLIPTextModel, *models: UNet2DConditionModel | ControlNetModel
) -> None:
    """On a CPU, attend by two products and a softmax: torch 2.13's fused attention is slow backwards there, and a step
    of the UNet takes 1.4 times as long. On CUDA the fused one stays. The function is the same."""
    if device.type == "cpu":
        text_encoder.set_attn_implementation("eager")
        for model in models:
            model.set_attn_processor(AttnProcessor())


def make_source(run: TrainingRun, tokenizer: CLIPTokenizer) -> Source:
    """Samples of the trained VAE.

    :raises FileNotFoundError: it was not trained.
    """
    return Source(
        folder="samples",
        vae=trained_vae(run, "vae", make_vae()),
        tokenize=partial(tokenize, tokenizer),
        mentions=partial(mentions, tokenizer),
        strays=_STRAYS,
    )


class UnetStage(TrainingStage):
    """Velocity prediction on cached latents."""

    name = "unet"
    learning_rate = 1e-3
    average = 0.998

    def __init__(self, run: TrainingRun, report: Report) -> None:
        torch.manual_seed(run.seed + 1)
        self.run = run
        tokenizer = make_tokenizer()
        self.unet, self.text_encoder = make_unet(), make_text_encoder(tokenizer)
        attend_plainly(run.device, self.text_encoder, self.unet)
        scale = LatentScale()
        self.modules = nn.ModuleDict({"unet": self.unet, "text_encoder": self.text_encoder, "scale": scale})
        source = make_source(run, tokenizer)
        self.samples = Samples(run, source, report, drop=_DROP)
        scale.factor.copy_(self.samples.factor)
        self.weights = self.samples.weights * (1 + self.samples.mention(_PAIRED, source).float())
        self.predict = run.maybe_compiled(self.unet)
        self.noiser = Noiser(run.device)
        self.take(run.batch_size(64), cpu=64)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        latents, tokens, _ = self.samples.batch(self.batch, generator, self.weights)
        noisy, velocity, steps = self.noiser(latents, generator)
        with self.run.autocast():
            states = self.text_encoder(tokens).last_hidden_state
            predicted = self.predict(noisy, steps, states, return_dict=False)[0]
        return self.noiser.loss(predicted, velocity, steps), self.batch
