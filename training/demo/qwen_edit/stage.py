"""Trains the transformer and, from random weights, the text encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.demo.qwen_edit.attention import PlainAttention
from training.demo.qwen_edit.models import (
    CHANNELS,
    SHIFT,
    TEXT_ENCODER,
    TRANSFORMER,
    as_tokens,
    encode,
    make_networks,
    patches_of,
)
from training.demo.qwen_edit.samples import EditSamples
from training.demo.qwen_edit.vae import trained_vae
from training.trainer import Report, TrainingRun, TrainingStage

VAE_STAGE, STAGE = "qwen-edit-vae", "qwen-edit"
_DROP = 0.1
"""Share of the edits without a prompt, for classifier-free guidance (Ho and Salimans 2022)."""


class LatentStatistics(nn.Module):
    """Carries mean and standard deviation of each channel of the latents in the state."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("deviation", torch.ones(CHANNELS))


def noisy(latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Interpolate latents towards noise (Esser et al. 2024, section 2), with timesteps shifted as in sampling.

    :returns: noisy latents and the velocity towards noise (both like `latents`), and the share of noise (B,), 0 to 1.
    """
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    uniform = torch.rand(len(latents), generator=generator, device=latents.device)
    sigmas = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    share = sigmas[:, None, None, None]
    return (1 - share) * latents + share * noise, noise - latents, sigmas


def token_weights(wanted: Tensor, before: Tensor) -> Tensor:
    """(B, 64) from tokens (B, 64, 64) of the wanted and the first given picture: 0.5 where nothing changes, and up to
    three times as much where something does, for most of a picture is only copied."""
    return 0.5 + (wanted - before).abs().mean(dim=-1).clamp(max=1)


class EditStage(TrainingStage):
    """Flow matching on cached latents."""

    name = STAGE
    learning_rate = 1e-3
    average = 0.998

    def __init__(self, run: TrainingRun, report: Report) -> None:
        torch.manual_seed(run.seed + 11)
        self.run = run
        networks = make_networks()
        transformer = networks[TRANSFORMER]
        for block in transformer.transformer_blocks:
            block.attn.set_processor(PlainAttention())
        if run.device.type == "cpu":
            networks[TEXT_ENCODER].set_attn_implementation("eager")
        statistics = LatentStatistics()
        self.modules = nn.ModuleDict({**networks, "statistics": statistics})
        self.samples = EditSamples(run, trained_vae(run, VAE_STAGE), report, drop=_DROP)
        statistics.mean.copy_(self.samples.mean)
        statistics.deviation.copy_(self.samples.deviation)
        self.predict = run.maybe_compiled(transformer)
        self.take(run.batch_size(32), cpu=32)

    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        generator = self.run.generator(self.name, step)
        batch = self.samples.batch(self.batch, generator)
        latents, velocity, sigmas = noisy(batch.wanted, generator)
        given = [as_tokens(picture) for picture in batch.given.unbind(1)]
        own, wanted = as_tokens(latents), as_tokens(velocity)
        grid = (1, latents.shape[2] // 2, latents.shape[3] // 2)
        with self.run.autocast(), sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
            states, mask = encode(self.modules[TEXT_ENCODER], batch.tokens, patches_of(batch.thumbnails))
            predicted = self.predict(
                hidden_states=torch.cat([own, *given], dim=1),
                encoder_hidden_states=states,
                encoder_hidden_states_mask=mask,
                timestep=sigmas,
                img_shapes=[[grid] * (1 + len(given))] * len(latents),
                return_dict=False,
            )[0][:, : own.shape[1]]
        weights = token_weights(as_tokens(batch.wanted), given[0])
        error = (weights[..., None] * (predicted.float() - wanted).square()).mean()
        return error, self.batch
