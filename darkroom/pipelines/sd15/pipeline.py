"""encode -> prepare -> denoise -> decode, as plain functions that are given their networks.

Follows diffusers 0.42, pipelines/stable_diffusion/pipeline_stable_diffusion.py and
pipelines/controlnet/pipeline_controlnet.py, and their variants that begin with an image: the same weights and seed give
the same image. What is different is that nothing runs here: each step is one call of a network that other requests use
at the same time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.control import Control, read_control
from darkroom.diffusion.generation import FinishedImage as FinishedImage
from darkroom.diffusion.generation import GenerationJob, Phase, run
from darkroom.diffusion.generation import GenerationProgress as GenerationProgress
from darkroom.diffusion.guidance import guide
from darkroom.diffusion.image_check import image_check
from darkroom.diffusion.lora_weights import require, row_inputs, with_loras
from darkroom.diffusion.originals import draw_noise, init_details, read_init, unet_rows
from darkroom.diffusion.sampling import Step, get_generators, get_schedule
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GenerateRequest, ResolvedRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.prompts.by_step import EmbedsByStep
from darkroom.prompts.clip import Tokenizer, encode_prompts
from darkroom.prompts.schedule import schedule_prompts
from darkroom.request.loras import LoraChoice
from darkroom.serving.lora_cache import BaseLoras
from darkroom.serving.measures import stage
from darkroom.serving.networks import Array, Network


@dataclass(frozen=True, kw_only=True)
class Components:
    """The networks that requests use.

    :param text_encoder, unet, vae_decoder: the networks of `darkroom.pipelines.sd15.networks`.
    :param control_unets: by kind of control, for the kinds that this installation has.
    :param loras: those that the networks can use; None where they take none.
    :param vae_encoder: None where this installation has none: no image can be changed.
    :param safety_checker: None where the checkpoint has none.
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
    safety_checker: Network | None = None
    stopped: Callable[[], bool] = lambda: False


async def generate(
    request: GenerateRequest, components: Components
) -> AsyncGenerator[GenerationProgress | FinishedImage, None]:
    """Generate the images of one request: `GenerationProgress` per step, then `FinishedImage` per image.

    :raises InvalidInput, NotAnImage, TooLarge: the request is at fault.
    :raises ModerationBlocked: the images are to be checked, and one is flagged or there is no safety checker.
    :raises Cancelled: `components.stopped` said so.
    """
    resolved = request.completed(components.checkpoint, components.limits)
    check = image_check(resolved, components.safety_checker)
    loras = resolved.lora_choices
    files = require(loras, components.loras)
    init = await read_init(
        resolved, components.limits, components.vae_encoder, conditions=components.checkpoint.inpaints
    )
    schedule = get_schedule(
        resolved.scheduler,
        components.checkpoint.scheduler,
        resolved.steps,
        strength=resolved.given_strength,
    )
    control = await read_control(resolved, components.control_unets, components.limits.max_control_pixels)
    yield GenerationProgress(done=0, total=len(schedule), control_map=await control.png() if control else None)
    encoder = with_loras(components.text_encoder, loras)
    with stage("encode", resolved.width, resolved.height):
        prompts = await _prompts(resolved, components, encoder, len(schedule))
    generators = get_generators([resolved.seed + k for k in range(resolved.num_images)])
    drawn = await draw_noise(init, components.vae_encoder, generators, shape=_latent_shape(resolved))
    predict = Prediction(
        request=resolved,
        components=components,
        prompts=prompts,
        control=control,
        conditions=drawn.conditions,
        loras=loras,
        steps=len(schedule),
    )
    job = GenerationJob(
        request=resolved,
        checkpoint=components.checkpoint,
        vae_decoder=components.vae_decoder,
        check=check,
        details={**init_details(resolved), **resolved.control_details, **resolved.lora_details(files)},
        stopped=components.stopped,
    )
    async for event in run(job, drawn.noise, [Phase(schedule=schedule, predict=predict)], generators, drawn.original):
        yield event


async def _prompts(request: ResolvedRequest, components: Components, encoder: Network, steps: int) -> EmbedsByStep:
    """What each step reads of the negative prompt, of a guided request, and of the prompt."""
    negative = (request.negative_prompt or "") if request.guided else None
    texts = schedule_prompts(request.prompt, negative, steps)
    embeds = await encode_prompts(texts.texts, components.tokenizer, components.checkpoint, encoder)
    return EmbedsByStep({"prompt_embeds": embeds}, texts.rows, request.num_images)


def _latent_shape(request: ResolvedRequest) -> tuple[int, int, int]:
    return LATENT_CHANNELS, request.height // VAE_SCALE_FACTOR, request.width // VAE_SCALE_FACTOR


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Asks the UNet what is noise in the rows of one request: the `Predict` of its loop.

    :param prompts: `prompt_embeds` of each step: of the prompt, or first of the negative prompt.
    :param conditions: what a UNet for inpainting reads behind the latents, see `Drawn`.
    :param steps: of the whole loop, of which the ControlNet and each LoRA may act on a part.
    """

    request: ResolvedRequest
    components: Components
    prompts: EmbedsByStep
    steps: int
    control: Control | None = None
    conditions: Tensor | None = None
    loras: Sequence[LoraChoice] = ()

    async def __call__(self, step: Step) -> Tensor:
        """(n, 4, h, w) latents -> (n, 4, h, w) prediction, guided where the request is."""
        guided = self.request.guided
        latents = unet_rows(step.latents, self.conditions, guided=guided)
        rows = len(latents)
        inputs: dict[str, Array] = {
            "latents": latents,
            "timestep": np.full((rows, 1), step.timestep, np.float32),
            **self.prompts.at(step.index),
        }
        network = self.components.unet
        control = self.control
        if control is not None and control.acts_at(step.index, self.steps):
            network = control.network
            inputs |= control.inputs
        answer = await network({**inputs, **row_inputs(self.loras, rows, (step.index, self.steps))})
        noise_pred = torch.from_numpy(answer["noise_pred"])
        return guide(noise_pred, self.request.guidance_scale) if guided else noise_pred
