"""encode -> prepare -> denoise with the base, then with the refiner -> decode, as plain functions that are given their
networks.

Follows diffusers 0.42, pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py with `denoising_end`, then
pipeline_stable_diffusion_xl_img2img.py with `denoising_start` and a guidance scale of 1: the same weights and seed give
the same image. A request with an image begins with the latter's `strength` on the base, with a mask it is
pipeline_stable_diffusion_xl_inpaint.py on both; where `strength` leaves the base no step, the refiner does it alone.

The refiner reads the embeddings of the base's second text encoder, and the base's VAE decodes, which is how
diffusers' documentation has the two share their parts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.generation import FinishedImage, GenerationJob, GenerationProgress, Phase, run
from darkroom.diffusion.guidance import doubled, guide
from darkroom.diffusion.lora_weights import require, row_inputs, with_loras
from darkroom.diffusion.originals import draw_noise, init_details, read_init
from darkroom.diffusion.sampling import Step, get_generators, get_schedule
from darkroom.pipelines.sdxl.checkpoint import LATENT_CHANNELS, VAE_SCALE_FACTOR, SdxlCheckpointInfo
from darkroom.pipelines.sdxl.prompts import Embeds, PromptTokenizer, encode_prompts
from darkroom.pipelines.sdxl.request import GenerateRequest, ResolvedRequest
from darkroom.pipelines.sdxl.settings import Settings
from darkroom.request.loras import LoraChoice
from darkroom.serving.lora_cache import BaseLoras
from darkroom.serving.networks import Array, Network

NO_GUIDANCE = 1.0


@dataclass(frozen=True, kw_only=True)
class Components:
    """What requests run on.

    :param readers, text_encoders: tokenizers and networks of the two text encoders.
    :param unet, vae_decoder: the networks of `darkroom.pipelines.sdxl.networks`.
    :param refiner_unet: None where this installation has no refiner: the base does all steps.
    :param loras: those that the networks can use; None where they take none.
    :param vae_encoder: None where this installation has none: no image can be changed.
    :param stopped: asked before every step whether the client has gone.
    """

    checkpoint: SdxlCheckpointInfo
    limits: Settings
    readers: Sequence[PromptTokenizer]
    text_encoders: Sequence[Network]
    unet: Network
    vae_decoder: Network
    refiner_unet: Network | None = None
    loras: BaseLoras | None = None
    vae_encoder: Network | None = None
    stopped: Callable[[], bool] = lambda: False


async def generate(
    request: GenerateRequest, components: Components
) -> AsyncGenerator[GenerationProgress | FinishedImage, None]:
    """Make the images of one request: `GenerationProgress` per step, then `FinishedImage` per image.

    :raises InvalidInput, TooLarge: the request is at fault.
    :raises Cancelled: `components.stopped` said so.
    """
    checkpoint = components.checkpoint
    resolved = request.completed(checkpoint, components.limits)
    files = require(resolved.lora_choices, components.loras)
    refined = components.refiner_unet is not None and resolved.refiner_start < 1
    parts = [(0.0, resolved.refiner_start), (resolved.refiner_start, 1.0)] if refined else [(0.0, 1.0)]
    init = await read_init(resolved, components.limits, components.vae_encoder)
    strength = None if init is None else resolved.strength
    schedules = [
        get_schedule(resolved.scheduler, checkpoint.scheduler, resolved.steps, start=start, end=end, strength=strength)
        for start, end in parts
    ]
    yield GenerationProgress(done=0, total=sum(map(len, schedules)))
    embeds = await _embeds(resolved, components, resolved.lora_choices)
    predictions = [_base(resolved, embeds, components.unet, steps=sum(map(len, schedules)))]
    if refined:
        assert components.refiner_unet is not None
        # LoRAs are for the base: the refiner reads what the text encoders say without them.
        plain = await _embeds(resolved, components, ()) if resolved.lora_choices else embeds
        predictions.append(_refiner(resolved, plain, components.refiner_unet))
    generators = get_generators([resolved.seed + k for k in range(resolved.num_images)])
    noise, original = await draw_noise(
        init, components.vae_encoder, generators, shape=_latent_shape(resolved), strength=resolved.strength
    )
    job = GenerationJob(
        request=resolved,
        checkpoint=checkpoint,
        vae_decoder=components.vae_decoder,
        details={**init_details(resolved), **_details(resolved, refined=refined), **resolved.lora_details(files)},
        stopped=components.stopped,
    )
    phases = [Phase(schedule=one, predict=predict) for one, predict in zip(schedules, predictions, strict=True)]
    async for event in run(job, noise, phases, generators, original):
        yield event


def _latent_shape(request: ResolvedRequest) -> tuple[int, int, int]:
    return LATENT_CHANNELS, request.height // VAE_SCALE_FACTOR, request.width // VAE_SCALE_FACTOR


async def _embeds(request: ResolvedRequest, components: Components, loras: Sequence[LoraChoice]) -> Embeds:
    """A row for the prompt; of a guided request one for the negative prompt before it."""
    zeros = request.negative_prompt is None and components.checkpoint.force_zeros_for_empty_prompt
    texts = [request.negative_prompt or "", request.prompt] if request.guided and not zeros else [request.prompt]
    encoders = [with_loras(encoder, loras) for encoder in components.text_encoders]
    embeds = await encode_prompts(texts, components.readers, encoders)
    return embeds.after_zeros() if request.guided and zeros else embeds


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Asks a UNet what is noise in the rows of one request: the `Predict` of a phase.

    :param guidance_scale: 1 and below: no guidance, and `conditions` have a row per image instead of two.
    :param conditions: the other inputs of the network, with all rows; the same at every step.
    :param steps: of all phases, of which each LoRA may act on a part.
    """

    network: Network
    guidance_scale: float
    conditions: Mapping[str, Array]
    loras: Sequence[LoraChoice] = ()
    steps: int = 0

    async def __call__(self, step: Step) -> Tensor:
        """(n, 4, h, w) latents -> (n, 4, h, w) prediction, guided where the request is."""
        guided = self.guidance_scale > 1
        latents = (doubled(step.latents) if guided else step.latents).numpy()
        times = np.full((len(latents), 1), step.timestep, np.float32)
        loras = row_inputs(self.loras, len(latents), (step.index, self.steps))
        answer = await self.network({"latents": latents, "timestep": times, **self.conditions, **loras})
        noise_pred = torch.from_numpy(answer["noise_pred"])
        return guide(noise_pred, self.guidance_scale) if guided else noise_pred


def _base(request: ResolvedRequest, embeds: Embeds, network: Network, *, steps: int) -> Prediction:
    rows = request.num_images * len(embeds.prompt_embeds)
    conditions = {
        "prompt_embeds": np.repeat(embeds.prompt_embeds, request.num_images, axis=0),
        "text_embeds": np.repeat(embeds.text_embeds, request.num_images, axis=0),
        "time_ids": np.tile(np.array(_sizes(request), np.float32), (rows, 1)),
    }
    return Prediction(
        network=network,
        guidance_scale=request.guidance_scale,
        conditions=conditions,
        loras=request.lora_choices,
        steps=steps,
    )


def _refiner(request: ResolvedRequest, embeds: Embeds, network: Network) -> Prediction:
    """Without guidance: the prompt alone, which is the last row."""
    rows = request.num_images
    conditions = {
        "prompt_embeds": np.repeat(embeds.refiner_embeds[-1:], rows, axis=0),
        "text_embeds": np.repeat(embeds.text_embeds[-1:], rows, axis=0),
        "time_ids": np.tile(np.array([*_sizes(request), request.aesthetic_score], np.float32), (rows, 1)),
    }
    return Prediction(network=network, guidance_scale=NO_GUIDANCE, conditions=conditions)


def _sizes(request: ResolvedRequest) -> tuple[int, int, int, int, int, int]:
    """The micro-conditioning in diffusers' order: heights before widths."""
    return (
        request.original_height,
        request.original_width,
        request.crop_top,
        request.crop_left,
        request.target_height,
        request.target_width,
    )


def _details(request: ResolvedRequest, *, refined: bool) -> dict[str, Any]:
    """What it takes to make an image again, beside what every family has."""
    names = ("original_width", "original_height", "crop_top", "crop_left", "target_width", "target_height")
    more = ("refiner_start", "aesthetic_score") if refined else ()
    # None and not "": an absent negative prompt makes another image than an empty one.
    told = {name: getattr(request, name) for name in (*names, *more)}
    return {"negative_prompt": request.negative_prompt, **told}
