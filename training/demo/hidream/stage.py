"""Trains HiDream's transformer and, from random weights, the four text encoders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.dataset import Samples, Source
from training.demo.hidream.models import ENCODERS, SHIFT, TRANSFORMER, encode, make_networks, make_vae
from training.demo.hidream.tokens import Words
from training.render import SIDE
from training.trainer import Report, TrainingRun, TrainingStage
from training.vae_stage import LatentScale, trained_vae

VAE_STAGE, STAGE = "hidream-vae", "hidream"
_DROP = 0.1
"""Share of the samples without a prompt, for classifier-free guidance (Ho and Salimans 2022)."""
_PATCH = 2


class Flow:
    """Latents on the straight way to noise, and the direction back (Esser et al. 2024, section 2): the transformer
    predicts from noise to image, and diffusers' pipeline hands the negative of it to a solver of flow matching.

    `shift` moves the timesteps towards noise as the solver's does, so that training sees most of what sampling asks.
    """

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) -> noisy latents and what to predict (both like `latents`), and timesteps (B,), 0 to 1000."""
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        uniform = torch.rand(len(latents), generator=generator, device=latents.device)
        sigmas = self.shift * uniform / (1 + (self.shift - 1) * uniform)
        share = sigmas[:, None, None, None]
        return (1 - share) * latents + share * noise, latents - noise, 1000 * sigmas


def as_patches(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, h/2 x w/2, 4): how the transformer answers in training (`unpatchify` in diffusers 0.42,
    models/transformers/transformer_hidream_image.py)."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return patches.transpose(3, 4).reshape(batch, channels, -1, _PATCH * _PATCH)


class TrainedExperts(MOEFeedForwardSwiGLU):  # type: ignore[misc]
    """Computes the layer in training in another way with the same result: each expert sees each token, and the answers
    of those that the gate did not choose count 0. torch.compile cannot follow the choice, and with two experts loses
    more by that than it saves. The layer keeps the loss by which the gate shares tokens out evenly (Fedus et al. 2021,
    section 2.2), which upstream computes and drops."""

    balance: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if not self.training:
            answer: Tensor = super().forward(x)
            return answer
        chosen, weights, self.balance = self.gate(x)
        shares = torch.zeros(len(weights), len(self.experts), dtype=weights.dtype, device=x.device)
        shares = shares.scatter(1, chosen, weights)
        tokens = x.flatten(0, 1)
        total: Tensor = self.shared_experts(tokens)
        for expert, share in zip(self.experts, shares.unbind(1), strict=True):
            total = total + expert(tokens) * share[:, None].to(total.dtype)
        return total.view_as(x)


def train_experts(transformer: HiDreamImageTransformer2DModel) -> list[TrainedExperts]:
    """Turn the experts of all blocks into trained ones, in place."""
    found = [module for module in transformer.modules() if type(module) is MOEFeedForwardSwiGLU]
    for module in found:
        module.__class__ = TrainedExperts
    return found


@contextmanager
def _quickly(run: TrainingRun) -> Iterator[None]:
    """Compute in bf16 if that is faster, and on a CPU with plain attention, as in the UNet's training."""
    kernels = [SDPBackend.MATH]
    if run.cuda:
        kernels += [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with run.autocast(), sdpa_kernel(kernels), warnings.catch_warnings():
        # diffusers' RMS norms have fp32 weights and get bf16 here; torch has another kernel for that, and says so.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        yield


@dataclass(frozen=True, kw_only=True)
class View:
    """The part of the latents that some batches are of.

    :param height, width: of the part in the middle, in latents.
    :param cut: words of sentences whose things would not be in it whole.
    """

    height: int
    width: int
    cut: tuple[str, ...]

    def of(self, latents: Tensor) -> Tensor:
        """(B, C, 16, 16) -> (B, C, height, width)."""
        top, left = (latents.shape[2] - self.height) // 2, (latents.shape[3] - self.width) // 2
        return latents[:, :, top : top + self.height, left : left + self.width]


WHOLE = View(height=SIDE // 8, width=SIDE // 8, cut=())
VIEWS: dict[int, View] = {
    7: View(height=12, width=16, cut=("large", "above", "below")),
    15: View(height=16, width=12, cut=("large", "left", "right")),
}
"""By the step, modulo 16: 4:3 and 3:4, as images that are not square are padded and look at other keys."""


class HidreamStage(TrainingStage):
    """Flow matching on cached latents."""

    name = STAGE
    learning_rate = 1e-3
    average = 0.998

    def __init__(self, run: TrainingRun, report: Report) -> None:
        torch.manual_seed(run.seed + 3)
        self.run = run
        self.words = Words()
        networks = make_networks(self.words)
        self.experts = train_experts(networks[TRANSFORMER])
        if run.device.type == "cpu":
            for part in ENCODERS:
                networks[part].set_attn_implementation("eager")
        scale = LatentScale()
        self.modules = nn.ModuleDict({**networks, "scale": scale})
        # Every box in one of its places: a token is four latents, hence the same glyph in the other place is four other
        # tokens, and there is nothing in a transformer that makes it the same.
        source = Source(
            folder="samples-hidream",
            vae=trained_vae(run, VAE_STAGE, make_vae()),
            tokenize=self.words.tokenize,
            mentions=self.words.mentions,
            strays=0.0,
            edges=False,
        )
        self.samples = Samples(run, source, report, drop=_DROP)
        scale.factor.copy_(self.samples.factor)
        whole = self.samples.weights
        self.weights = {view: whole * ~self.samples.mention(view.cut, source) for view in (WHOLE, *VIEWS.values())}
        self.predict = run.maybe_compiled(networks[TRANSFORMER])
        self.flow = Flow(SHIFT)
        self.take(run.batch_size(64), cpu=64)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        view = VIEWS.get(step % 16, WHOLE)
        latents, tokens, _ = self.samples.batch(self.batch, generator, self.weights[view])
        noisy, wanted, timesteps = self.flow(view.of(latents), generator)
        with _quickly(self.run):
            states = encode(self.modules, self.words, tokens)
            predicted = self.predict(hidden_states=noisy, timesteps=timesteps, **states, return_dict=False)[0]
        answer = as_patches(wanted)
        error = (predicted[:, :, : answer.shape[2]].float() - answer).square().mean()  # behind it is padding
        balance = torch.stack([experts.balance for experts in self.experts]).sum()
        return error + balance, self.batch
