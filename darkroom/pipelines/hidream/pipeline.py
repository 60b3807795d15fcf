"""encode -> prepare -> denoise -> decode, as plain functions that are given their networks.

Follows diffusers 0.42, pipelines/hidream_image/pipeline_hidream_image.py: the same weights and noise give the same
image. What is different is that each step is one call of a transformer that other requests use at the same time, and
that an image is made in the size that was asked for, where upstream enlarges or shrinks it to about a megapixel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.generation import FinishedImage, GenerationJob, GenerationProgress, Phase, run
from darkroom.diffusion.guidance import doubled, guide
from darkroom.diffusion.sampling import Step, get_generators, get_noise, get_schedule
from darkroom.pipelines.hidream.checkpoint import HidreamCheckpointInfo
from darkroom.pipelines.hidream.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.prompts import Embeds, PromptTokenizer, encode_prompts
from darkroom.pipelines.hidream.request import GenerateRequest, ResolvedRequest
from darkroom.pipelines.hidream.settings import Settings
from darkroom.serving.measures import stage
from darkroom.serving.networks import Network


@dataclass(frozen=True, kw_only=True)
class Components:
    """The networks and tokenizers that requests use.

    :param readers, encoders: tokenizers and networks, by the names of `checkpoint.ENCODERS`.
    :param transformer, vae_decoder: the networks of `darkroom.pipelines.hidream.networks`.
    :param stopped: asked before every step whether the client has gone.
    """

    checkpoint: HidreamCheckpointInfo
    limits: Settings
    readers: Mapping[str, PromptTokenizer]
    encoders: Mapping[str, Network]
    transformer: Network
    vae_decoder: Network
    stopped: Callable[[], bool] = lambda: False


async def generate(
    request: GenerateRequest, components: Components
) -> AsyncGenerator[GenerationProgress | FinishedImage, None]:
    """Generate the images of one request: `GenerationProgress` per step, then `FinishedImage` per image.

    :raises InvalidInput, TooLarge: the request is at fault.
    :raises Cancelled: `components.stopped` said so.
    """
    checkpoint = components.checkpoint
    resolved = request.completed(checkpoint, components.limits)
    schedule = get_schedule(resolved.scheduler, checkpoint.scheduler, resolved.steps, tokens=checkpoint.max_tokens)
    yield GenerationProgress(done=0, total=len(schedule))
    texts = [resolved.negative_prompt or "", resolved.prompt] if resolved.guided else [resolved.prompt]
    with stage("encode", resolved.width, resolved.height):
        embeds = await encode_prompts(texts, resolved.max_sequence_length, components.readers, components.encoders)
    generators = get_generators([resolved.seed + k for k in range(resolved.num_images)])
    noise = get_noise(generators, _latent_shape(resolved))
    job = GenerationJob(
        request=resolved,
        checkpoint=checkpoint,
        vae_decoder=components.vae_decoder,
        details={"max_sequence_length": resolved.max_sequence_length},
        stopped=components.stopped,
    )
    predict = Prediction(request=resolved, transformer=components.transformer, embeds=embeds)
    async for event in run(job, noise, [Phase(schedule=schedule, predict=predict)], generators):
        yield event


def _latent_shape(request: ResolvedRequest) -> tuple[int, int, int]:
    return LATENT_CHANNELS, request.height // VAE_SCALE_FACTOR, request.width // VAE_SCALE_FACTOR


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Asks the transformer where the rows of one request go: the `Predict` of its loop.

    :param embeds: a row for the prompt, or first one for the negative prompt.
    """

    request: ResolvedRequest
    transformer: Network
    embeds: Embeds

    async def __call__(self, step: Step) -> Tensor:
        """(n, 16, h, w) latents -> (n, 16, h, w) velocity from image to noise, guided where the request is."""
        guided, copies = self.request.guided, self.request.num_images
        latents = (doubled(step.latents) if guided else step.latents).numpy()
        answer = await self.transformer(
            {
                "hidden_states": latents,
                "timesteps": np.full((len(latents), 1), step.timestep, np.float32),
                "encoder_hidden_states_t5": np.repeat(self.embeds.t5, copies, axis=0),
                "encoder_hidden_states_llama3": np.repeat(self.embeds.llama, copies, axis=0),
                "pooled_embeds": np.repeat(self.embeds.pooled, copies, axis=0),
            }
        )
        velocity = -torch.from_numpy(answer["noise_pred"])  # the model was trained from noise to image
        return guide(velocity, self.request.guidance_scale) if guided else velocity
