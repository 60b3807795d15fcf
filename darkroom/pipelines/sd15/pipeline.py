"""encode -> prepare -> denoise -> decode, as plain functions that are given their networks.

Follows diffusers 0.42, pipelines/stable_diffusion/pipeline_stable_diffusion.py and
pipelines/controlnet/pipeline_controlnet.py, and their variants that begin with an image: the same weights and seed give
the same image. What is different is that nothing runs here: each step is one call of a network that other requests use
at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.controls import load_control
from darkroom.diffusion.generation import FinishedImage as FinishedImage
from darkroom.diffusion.generation import GenerationJob, Phase, run
from darkroom.diffusion.generation import GenerationProgress as GenerationProgress
from darkroom.diffusion.guidance import doubled, guide
from darkroom.diffusion.lora_weights import require, row_inputs, with_loras
from darkroom.diffusion.originals import draw_noise, init_details, read_init
from darkroom.diffusion.sampling import Step, get_generators, get_schedule
from darkroom.diffusion.shares import acts_at
from darkroom.errors import InvalidInput
from darkroom.images import Pixels, read_rgb
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GenerateRequest, ResolvedRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.png import encode_png
from darkroom.prompts.by_step import EmbedsByStep
from darkroom.prompts.clip import Tokenizer, encode_prompts
from darkroom.prompts.schedule import schedule_prompts
from darkroom.request.loras import LoraChoice
from darkroom.serving.lora_cache import BaseLoras
from darkroom.serving.networks import Array, Network


@dataclass(frozen=True, kw_only=True)
class Components:
    """The networks that requests use.

    :param text_encoder, unet, vae_decoder: the networks of `darkroom.pipelines.sd15.networks`.
    :param control_unets: by kind of control, for the kinds that this installation has.
    :param loras: those that the networks can use; None where they take none.
    :param vae_encoder: None where this installation has none: no image can be changed.
    :param stopped: asked before every step whether the client has gone.
    """

    checkpoint: Sd15CheckpointInfo
    tokenizer: Tokenizer
    limits: Settings
    text_encoder: Network
    unet: Network
    vae_decoder: Network
    control_unets: Mapping[str, Network]
    loras: BaseLoras | None = None
    vae_encoder: Network | None = None
    stopped: Callable[[], bool] = lambda: False


async def generate(
    request: GenerateRequest, components: Components
) -> AsyncGenerator[GenerationProgress | FinishedImage, None]:
    """Generate the images of one request: `GenerationProgress` per step, then `FinishedImage` per image.

    :raises InvalidInput, NotAnImage, TooLarge: the request is at fault.
    :raises Cancelled: `components.stopped` said so.
    """
    resolved = request.completed(components.checkpoint, components.limits)
    loras = resolved.lora_choices
    files = require(loras, components.loras)
    init = await read_init(resolved, components.limits, components.vae_encoder)
    schedule = get_schedule(
        resolved.scheduler,
        components.checkpoint.scheduler,
        resolved.steps,
        strength=None if init is None else resolved.strength,
    )
    control_map = await _control_map(resolved, components)
    control_png = None if control_map is None else await asyncio.to_thread(encode_png, control_map)
    yield GenerationProgress(done=0, total=len(schedule), control_map=control_png)
    encoder = with_loras(components.text_encoder, loras)
    prompts = await _prompts(resolved, components, encoder, len(schedule))
    generators = get_generators([resolved.seed + k for k in range(resolved.num_images)])
    noise, original = await draw_noise(
        init, components.vae_encoder, generators, shape=_latent_shape(resolved), strength=resolved.strength
    )
    predict = Prediction(
        request=resolved,
        components=components,
        prompts=prompts,
        control_map=control_map,
        loras=loras,
        steps=len(schedule),
    )
    job = GenerationJob(
        request=resolved,
        checkpoint=components.checkpoint,
        vae_decoder=components.vae_decoder,
        details={**init_details(resolved), **_control_details(resolved), **resolved.lora_details(files)},
        stopped=components.stopped,
    )
    async for event in run(job, noise, [Phase(schedule=schedule, predict=predict)], generators, original):
        yield event


async def _prompts(request: ResolvedRequest, components: Components, encoder: Network, steps: int) -> EmbedsByStep:
    """What each step reads of the negative prompt, of a guided request, and of the prompt."""
    negative = (request.negative_prompt or "") if request.guided else None
    texts = schedule_prompts(request.prompt, negative, steps)
    embeds = await encode_prompts(texts.texts, components.tokenizer, components.checkpoint, encoder)
    return EmbedsByStep({"prompt_embeds": embeds}, texts.rows, request.num_images)


def _latent_shape(request: ResolvedRequest) -> tuple[int, int, int]:
    return LATENT_CHANNELS, request.height // VAE_SCALE_FACTOR, request.width // VAE_SCALE_FACTOR


async def _control_map(request: ResolvedRequest, components: Components) -> Pixels | None:
    """(height, width, 3) uint8: what the ControlNet reads, made of the reference image, or that image itself."""
    if request.control is None:
        return None
    control = request.control
    kind = control.kind
    if kind not in components.control_unets:
        have = ", ".join(sorted(components.control_unets)) or "none"
        raise InvalidInput(
            f"control_type {kind!r} has no network in this installation; it has: {have}.", param="control_type"
        )

    def make() -> Pixels:
        pixels = read_rgb(
            request.control_image or b"",
            width=request.width,
            height=request.height,
            max_pixels=components.limits.max_control_pixels,
            param="control_image",
        )
        return load_control(kind).preprocess(pixels, control.options) if control.preprocess else pixels

    return await asyncio.to_thread(make)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Asks the UNet what is noise in the rows of one request: the `Predict` of its loop.

    :param prompts: `prompt_embeds` of each step: of the prompt, or first of the negative prompt.
    :param control_map: (height, width, 3) uint8.
    :param steps: of the whole loop, of which the ControlNet and each LoRA may act on a part.
    """

    request: ResolvedRequest
    components: Components
    prompts: EmbedsByStep
    control_map: Pixels | None
    steps: int
    loras: Sequence[LoraChoice] = ()

    async def __call__(self, step: Step) -> Tensor:
        """(n, 4, h, w) latents -> (n, 4, h, w) prediction, guided where the request is."""
        guided = self.request.guided
        latents = (doubled(step.latents) if guided else step.latents).numpy()
        rows = len(latents)
        inputs: dict[str, Array] = {
            "latents": latents,
            "timestep": np.full((rows, 1), step.timestep, np.float32),
            **self.prompts.at(step.index),
        }
        network = self.components.unet
        control = self.request.control
        if (
            control is not None
            and self.control_map is not None
            and acts_at(step.index, self.steps, control.start, control.end)
        ):
            network = self.components.control_unets[control.kind]
            inputs["control_image"] = self._control_rows
            inputs["controlnet_conditioning_scale"] = np.full((rows, 1), control.conditioning_scale, np.float32)
        answer = await network({**inputs, **row_inputs(self.loras, rows, (step.index, self.steps))})
        noise_pred = torch.from_numpy(answer["noise_pred"])
        return guide(noise_pred, self.request.guidance_scale) if guided else noise_pred

    @cached_property
    def _control_rows(self) -> Array:
        """`control_map` for every row of latents, in one piece of memory as Triton takes it; the same at every step."""
        assert self.control_map is not None
        rows = self.request.num_images * (2 if self.request.guided else 1)
        return np.repeat(self.control_map[None], rows, axis=0)


def _control_details(request: GenerateRequest) -> dict[str, Any]:
    control = request.control
    if control is None:
        return {}
    return {
        "control_type": control.kind,
        "control_preprocess": control.preprocess,
        "low_threshold": control.options.low_threshold,
        "high_threshold": control.options.high_threshold,
        "controlnet_conditioning_scale": control.conditioning_scale,
        "control_guidance_start": control.start,
        "control_guidance_end": control.end,
    }
