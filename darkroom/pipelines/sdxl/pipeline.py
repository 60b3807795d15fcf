"""encode -> prepare -> denoise with the base, then with the refiner -> decode, as plain functions that are given their
networks.

Follows diffusers 0.42, pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py with `denoising_end`, then
pipeline_stable_diffusion_xl_img2img.py with `denoising_start` and a guidance scale of 1: the same weights and seed give
the same image. A request with an image begins with the latter's `strength` on the base, with a mask it is
pipeline_stable_diffusion_xl_inpaint.py on both; where `strength` leaves the base no step, the refiner does it alone.
After a base for inpainting the refiner changes the image as a whole.

A ControlNet acts on the base alone, as in pipelines/controlnet/pipeline_controlnet_sd_xl.py and its variants.

The refiner reads the embeddings of the base's second text encoder, and the base's VAE decodes, which is how
diffusers' documentation has the two share their parts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.control import Control, read_control
from darkroom.diffusion.generation import FinishedImage, GenerationJob, GenerationProgress, Phase, run
from darkroom.diffusion.guidance import guide
from darkroom.diffusion.lora_weights import require, row_inputs, with_loras
from darkroom.diffusion.originals import draw_noise, init_details, read_init, unet_rows
from darkroom.diffusion.sampling import Step, get_generators, get_schedule
from darkroom.pipelines.sdxl.checkpoint import LATENT_CHANNELS, VAE_SCALE_FACTOR, SdxlCheckpointInfo
from darkroom.pipelines.sdxl.prompts import Embeds, PromptTokenizer, encode_prompts
from darkroom.pipelines.sdxl.request import GenerateRequest, ResolvedRequest
from darkroom.pipelines.sdxl.settings import Settings
from darkroom.prompts.by_step import EmbedsByStep
from darkroom.prompts.schedule import schedule_prompts
from darkroom.request.loras import LoraChoice
from darkroom.serving.lora_cache import BaseLoras
from darkroom.serving.measures import stage
from darkroom.serving.networks import Array, Network

NO_GUIDANCE = 1.0


@dataclass(frozen=True, kw_only=True)
class Components:
    """What requests run on.

    :param readers, text_encoders: tokenizers and networks of the two text encoders.
    :param unet, vae_decoder: the networks of `darkroom.pipelines.sdxl.networks`.
    :param refiner_unet: None where this installation has no refiner: the base does all steps.
    :param loras: those that the networks can use; None where they take none.
    :param control_unets: the base's UNet with a ControlNet, by kind of control, for the kinds that this installation
        has.
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
    control_unets: Mapping[str, Network] = field(default_factory=dict)
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
    strength = resolved.given_strength
    schedules = [
        get_schedule(resolved.scheduler, checkpoint.scheduler, resolved.steps, start=start, end=end, strength=strength)
        for start, end in parts
    ]
    steps = sum(map(len, schedules))
    # A refiner that does all steps reads no mask.
    conditions = checkpoint.inpaints and len(schedules[0]) > 0
    init = await read_init(resolved, components.limits, components.vae_encoder, conditions=conditions)
    control = await read_control(resolved, components.control_unets, components.limits.max_control_pixels)
    yield GenerationProgress(done=0, total=steps, control_map=await control.png() if control else None)
    embeds, rows = await _embeds(resolved, components, steps, resolved.lora_choices)
    generators = get_generators([resolved.seed + k for k in range(resolved.num_images)])
    drawn = await draw_noise(init, components.vae_encoder, generators, shape=_latent_shape(resolved))
    predictions = [_base(resolved, embeds, rows, components.unet, control, drawn.conditions)]
    if refined:
        assert components.refiner_unet is not None
        if resolved.lora_choices:  # they are for the base: the refiner reads what the text encoders say without them
            embeds, rows = await _embeds(resolved, components, steps, ())
        predictions.append(_refiner(resolved, embeds, rows[len(schedules[0]) :], components.refiner_unet))
    job = GenerationJob(
        request=resolved,
        checkpoint=checkpoint,
        vae_decoder=components.vae_decoder,
        details={
            **init_details(resolved),
            **resolved.control_details,
            **_details(resolved, refined=refined),
            **resolved.lora_details(files),
        },
        stopped=components.stopped,
    )
    phases = [Phase(schedule=one, predict=predict) for one, predict in zip(schedules, predictions, strict=True)]
    async for event in run(job, drawn.noise, phases, generators, drawn.original):
        yield event


def _latent_shape(request: ResolvedRequest) -> tuple[int, int, int]:
    return LATENT_CHANNELS, request.height // VAE_SCALE_FACTOR, request.width // VAE_SCALE_FACTOR


Rows = Sequence[tuple[int, ...]]
"""For each step the rows of `Embeds` that it reads: the negative prompt's and the prompt's, or the latter alone."""


async def _embeds(
    request: ResolvedRequest, components: Components, steps: int, loras: Sequence[LoraChoice]
) -> tuple[Embeds, Rows]:
    """A row for each text that a step reads; before them zeros, where those stand for the negative prompt."""
    zeros = request.guided and request.negative_prompt is None and components.checkpoint.force_zeros_for_empty_prompt
    negative = (request.negative_prompt or "") if request.guided and not zeros else None
    texts = schedule_prompts(request.prompt, negative, steps)
    encoders = [with_loras(encoder, loras) for encoder in components.text_encoders]
    with stage("encode", request.width, request.height):
        embeds = await encode_prompts(texts.texts, components.readers, encoders)
    if zeros:
        return embeds.after_zeros(), [(0, row + 1) for (row,) in texts.rows]
    return embeds, texts.rows


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Asks a UNet what is noise in the rows of one request: the `Predict` of a phase.

    :param guidance_scale: 1 and below: no guidance, and a row per image instead of two.
    :param prompts: `prompt_embeds` and `text_embeds` of each step.
    :param time_ids: (rows, numbers): the micro-conditioning, the same at every step.
    :param steps: of all phases, of which the ControlNet and each LoRA may act on a part.
    :param conditions: what a UNet for inpainting reads behind the latents, see `Drawn`.
    """

    network: Network
    guidance_scale: float
    prompts: EmbedsByStep
    time_ids: Array
    loras: Sequence[LoraChoice] = ()
    steps: int = 0
    control: Control | None = None
    conditions: Tensor | None = None

    async def __call__(self, step: Step) -> Tensor:
        """(n, 4, h, w) latents -> (n, 4, h, w) prediction, guided where the request is."""
        guided = self.guidance_scale > 1
        latents = unet_rows(step.latents, self.conditions, guided=guided)
        inputs: dict[str, Array] = {
            "latents": latents,
            "timestep": np.full((len(latents), 1), step.timestep, np.float32),
            **self.prompts.at(step.index),
            "time_ids": self.time_ids,
        }
        network = self.network
        if self.control is not None and self.control.acts_at(step.index, self.steps):
            network = self.control.network
            inputs |= self.control.inputs
        answer = await network({**inputs, **row_inputs(self.loras, len(latents), (step.index, self.steps))})
        noise_pred = torch.from_numpy(answer["noise_pred"])
        return guide(noise_pred, self.guidance_scale) if guided else noise_pred


def _base(
    request: ResolvedRequest,
    embeds: Embeds,
    rows: Rows,
    network: Network,
    control: Control | None,
    conditions: Tensor | None,
) -> Prediction:
    given = {"prompt_embeds": embeds.prompt_embeds, "text_embeds": embeds.text_embeds}
    time_ids = np.array(_sizes(request), np.float32)
    return Prediction(
        network=network,
        guidance_scale=request.guidance_scale,
        prompts=EmbedsByStep(given, rows, request.num_images),
        time_ids=np.tile(time_ids, (request.num_images * len(rows[0]), 1)),
        loras=request.lora_choices,
        steps=len(rows),
        control=control,
        conditions=conditions,
    )


def _refiner(request: ResolvedRequest, embeds: Embeds, rows: Rows, network: Network) -> Prediction:
    """Without guidance: the prompt alone, which is the last text of a step.

    :param rows: from the refiner's first step on.
    """
    given = {"prompt_embeds": embeds.refiner_embeds, "text_embeds": embeds.text_embeds}
    time_ids = np.array([*_sizes(request), request.aesthetic_score], np.float32)
    return Prediction(
        network=network,
        guidance_scale=NO_GUIDANCE,
        prompts=EmbedsByStep(given, [row[-1:] for row in rows], request.num_images),
        time_ids=np.tile(time_ids, (request.num_images, 1)),
    )


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
