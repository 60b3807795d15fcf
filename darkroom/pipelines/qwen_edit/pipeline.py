"""read -> encode -> denoise -> decode, as plain functions that are given their networks.

Follows diffusers 0.42, pipelines/qwenimage/pipeline_qwenimage_edit.py and pipeline_qwenimage_edit_plus.py: the same
weights and noise give the same image, where the first image's sides are multiples of 16. What is different is that each
step is one call of a transformer that other requests use at the same time, that a result is as large as the first image
and not about a megapixel in the proportions of the last one, and what `prompts` and `canvas` say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from darkroom.diffusion.generation import FinishedImage, GenerationJob, GenerationProgress, Phase, run
from darkroom.diffusion.maps import MapMaker
from darkroom.diffusion.sampling import Schedule, Step, get_generators, get_noise, get_schedule
from darkroom.images import Pixels, decode, opaque
from darkroom.pipelines.qwen_edit.canvas import Canvas, condition_size, resized
from darkroom.pipelines.qwen_edit.checkpoint import (
    LATENT_CHANNELS,
    SIDE_MULTIPLE,
    VAE_SCALE_FACTOR,
    QwenEditCheckpointInfo,
)
from darkroom.pipelines.qwen_edit.control import Control, control_tokens
from darkroom.pipelines.qwen_edit.finish import Finish
from darkroom.pipelines.qwen_edit.networks import POSITIONS
from darkroom.pipelines.qwen_edit.prompts import PromptReader, ReadPrompts, encode_prompts
from darkroom.pipelines.qwen_edit.request import EditRequest, ResolvedEdit
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.tokens import grid_of, guide, pack, padded, padded_grids, unpack
from darkroom.serving.measures import stage
from darkroom.serving.networks import Array, Network


@dataclass(frozen=True, kw_only=True)
class Components:
    """The networks and the tokenizer that requests use.

    :param text_encoder, transformer, vae_encoder, vae_decoder: the networks of `darkroom.pipelines.qwen_edit.networks`.
    :param maps: by the values of `make_map` that can be made here.
    :param stopped: asked before every step whether the client has gone.
    """

    checkpoint: QwenEditCheckpointInfo
    limits: Settings
    reader: PromptReader
    text_encoder: Network
    transformer: Network
    vae_encoder: Network
    vae_decoder: Network
    maps: Mapping[str, MapMaker] = field(default_factory=dict)
    stopped: Callable[[], bool] = lambda: False


async def generate(
    request: EditRequest, components: Components
) -> AsyncGenerator[GenerationProgress | FinishedImage, None]:
    """Do one edit: `GenerationProgress` per step, then `FinishedImage` per result.

    :raises InvalidInput, NotAnImage, TooLarge: the request is at fault.
    :raises Cancelled: `components.stopped` said so.
    """
    checkpoint, limits = components.checkpoint, components.limits
    resolved = request.completed(checkpoint, limits)
    canvas = Canvas.of(resolved.width, resolved.height, limits.max_pixels)
    schedule = _schedule(resolved, canvas, checkpoint)
    given = await asyncio.to_thread(_decoded, resolved, limits)
    yield GenerationProgress(done=0, total=len(schedule))
    with stage("encode", canvas.outer_width, canvas.outer_height):
        images, steering = await asyncio.to_thread(_shown, resolved, given, canvas, components)
        prompts = await asyncio.to_thread(_read_prompts, resolved, images, components)
        prompts.require_at_most(_positions_of_text(canvas, images, checkpoint))
        references, texts, tokens = await asyncio.gather(
            _references(images, components),
            encode_prompts(prompts, components.text_encoder),
            control_tokens(steering, canvas, components.vae_encoder),
        )
    generators = get_generators([resolved.seed + k for k in range(resolved.num_images)])
    noise = get_noise(generators, _latent_shape(canvas))
    rows = resolved.num_images * len(texts)
    control = None if tokens is None else Control(resolved, tokens, rows, len(schedule), texts[0])
    predict = Prediction(resolved, components.transformer, references, texts, control)
    job = GenerationJob(
        request=resolved,
        checkpoint=checkpoint,
        vae_decoder=components.vae_decoder,
        details={
            "true_guidance_scale": resolved.true_guidance_scale if resolved.guided else 1.0,
            "input_images": len(images),
            "edited_width": canvas.outer_width,
            "edited_height": canvas.outer_height,
            **(resolved.control_details if control else {}),
        },
        stopped=components.stopped,
        finish=await asyncio.to_thread(Finish.of, resolved, canvas, given[0], limits),
    )
    async for event in run(job, noise, [Phase(schedule=schedule, predict=predict)], generators):
        yield event


def _latent_shape(canvas: Canvas) -> tuple[int, int, int]:
    return LATENT_CHANNELS, canvas.outer_height // VAE_SCALE_FACTOR, canvas.outer_width // VAE_SCALE_FACTOR


def _schedule(request: ResolvedEdit, canvas: Canvas, checkpoint: QwenEditCheckpointInfo) -> Schedule:
    _, height, width = _latent_shape(canvas)
    return get_schedule(
        request.scheduler,
        checkpoint.scheduler,
        request.steps,
        tokens=height * width // 4,
        sigmas=np.linspace(1.0, 1 / request.steps, request.steps).tolist(),
    )


def _decoded(request: ResolvedEdit, limits: Settings) -> list[Pixels]:
    """The images of a request, (height, width, 3) uint8 each."""
    return [opaque(decode(one, max_pixels=limits.max_input_pixels, param="images")) for one in request.images]


def _shown(
    request: ResolvedEdit, given: Sequence[Pixels], canvas: Canvas, components: Components
) -> tuple[list[Pixels], Pixels | None]:
    """The images that the model sees, the first one framed, and that for the ControlNet, if there is one.

    A map that is made is one of the former where there is no ControlNet.
    """
    images = [canvas.frame(given[0]), *given[1:]]
    if request.control_image is not None:
        most = components.limits.max_input_pixels
        steering = opaque(decode(request.control_image, max_pixels=most, param="control_image"))
        return images, canvas.frame(steering)
    if request.make_map is None:
        return images, None
    made = components.maps[request.make_map](images[0])
    return (images, made) if components.checkpoint.controlnet else ([*images, made], None)


async def _references(images: Sequence[Pixels], components: Components) -> list[Tensor]:
    """The images as the transformer sees them: latents (1, channels, h, w) each."""
    area = components.checkpoint.reference_area

    async def one(image: Pixels) -> Tensor:
        seen = await asyncio.to_thread(resized, image, *condition_size(image, area))
        return torch.from_numpy((await components.vae_encoder({"image": seen[None]}))["mean"])

    return list(await asyncio.gather(*(one(image) for image in images)))


def _read_prompts(request: ResolvedEdit, images: Sequence[Pixels], components: Components) -> ReadPrompts:
    """The prompt and, of a guided request, the negative prompt."""
    area = components.checkpoint.condition_area
    seen = [resized(image, *condition_size(image, area)) for image in images]
    negative = [(request.negative_prompt or "", "negative_prompt")] if request.guided else []
    return components.reader.read([(request.prompt, "prompt"), *negative], seen)


def _positions_of_text(canvas: Canvas, images: Sequence[Pixels], checkpoint: QwenEditCheckpointInfo) -> int:
    """How many tokens the transformer has positions for behind those of the images."""
    sides = [(canvas.outer_width, canvas.outer_height)]
    sides += [condition_size(image, checkpoint.reference_area) for image in images]
    return POSITIONS - max(max(size) for size in sides) // SIDE_MULTIPLE // 2


@dataclass(frozen=True)
class Prediction:
    """Asks the transformer where the rows of one request go: the `Predict` of its loop.

    :param references: latents (1, channels, h, w) of each image.
    :param texts: (tokens, width) of the prompt, and perhaps of the negative prompt.
    :param control: what the ControlNet reads; None where none acts.
    """

    request: ResolvedEdit
    transformer: Network
    references: Sequence[Tensor]
    texts: Sequence[Array]
    control: Control | None = None

    async def __call__(self, step: Step) -> Tensor:
        """(n, 16, h, w) latents -> (n, 16, h, w) velocity from image to noise, guided where the request is."""
        noisy = pack(step.latents)
        copies, tokens = noisy.shape[:2]
        rows = [np.concatenate([row, self._seen]) for row in noisy.numpy()] * len(self.texts)
        answer = await self.transformer(
            {
                "hidden_states": padded(rows),
                "grids": np.repeat(self._grids(step.latents)[None], len(rows), axis=0),
                "timestep": np.full((len(rows), 1), step.timestep, np.float32),
                "encoder_hidden_states": np.repeat(self._padded_texts, copies, axis=0),
                "text_tokens": np.repeat([[len(text)] for text in self.texts], copies, axis=0).astype(np.int32),
                **(self.control.inputs(step.index) if self.control else {}),
            }
        )
        velocity = torch.from_numpy(answer["noise_pred"])[:, :tokens]
        if len(self.texts) > 1:
            velocity = guide(velocity[:copies], velocity[copies:], self.request.true_guidance_scale)
        return unpack(velocity, *step.latents.shape[-2:])

    @cached_property
    def _seen(self) -> Array:
        """(tokens, numbers) of all references; the same at every step."""
        return np.concatenate([pack(latents)[0].numpy() for latents in self.references])

    @cached_property
    def _padded_texts(self) -> Array:
        return padded(self.texts)

    def _grids(self, latents: Tensor) -> Array:
        return padded_grids([grid_of(latents), *map(grid_of, self.references)])
