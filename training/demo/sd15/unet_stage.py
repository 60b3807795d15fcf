"""Trains the UNet and, from random weights, the text encoder."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from training.dataset import PAIRED, STRAYS, Samples, Source, make_tokenizer, mentions, tokenize
from training.demo.sd15.models import make_text_encoder, make_unet, training_scheduler
from training.networks import make_vae
from training.noise import Noiser, attend_plainly
from training.trainer import Report, TrainingRun, TrainingStage
from training.vae_stage import LatentScale, trained_vae

_DROP = 0.1
"""Share of the samples without a prompt, for classifier-free guidance (Ho and Salimans 2022)."""


def make_source(run: TrainingRun, tokenizer: CLIPTokenizer) -> Source:
    """Samples of the trained VAE.

    :raises FileNotFoundError: it was not trained.
    """
    return Source(
        folder="samples",
        vae=trained_vae(run, "vae", make_vae()),
        tokenize=partial(tokenize, tokenizer),
        mentions=partial(mentions, tokenizer),
        strays=STRAYS,
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
        self.weights = self.samples.weights * (1 + self.samples.mention(PAIRED, source).float())
        self.predict = run.maybe_compiled(self.unet)
        self.noiser = Noiser(training_scheduler(), run.device)
        self.take(run.batch_size(64), cpu=64)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        latents, tokens, _ = self.samples.batch(self.batch, generator, self.weights)
        noisy, velocity, steps = self.noiser(latents, generator)
        with self.run.autocast():
            states = self.text_encoder(tokens).last_hidden_state
            predicted = self.predict(noisy, steps, states, return_dict=False)[0]
        return self.noiser.loss(predicted, velocity, steps), self.batch
