"""From noise to encoded images: what the loops of all diffusion families do alike, and what they say meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom import __version__, tracing
from darkroom.diffusion.checkpoint import CheckpointInfo
from darkroom.diffusion.image_check import FLAGGED, ImageCheck
from darkroom.diffusion.originals import Original
from darkroom.diffusion.sampling import (
    Predict,
    Schedule,
    Step,
    Stepped,
    denoise,
    get_noise,
    initial_latents,
    predicted_original,
)
from darkroom.diffusion.schedulers import scheduler_key
from darkroom.images import Picture, Pixels, encode
from darkroom.parameters import text_chunks
from darkroom.png import encode_png
from darkroom.request.image import ImageRequest
from darkroom.serving.measures import RECORDER, STAGE, STEP, side_of, stage
from darkroom.serving.networks import Array, Network


@dataclass(frozen=True, kw_only=True)
class GenerationProgress:
    """One step is done; `done` is 0 before the first step.

    :param preview: PNG of the predicted images side by side, at an eighth of their size; only on preview steps.
    :param control_map: PNG of the ControlNet's input; sent once, before the first step.
    """

    done: int
    total: int
    preview: bytes | None = None
    control_map: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class FinishedImage:
    """One image is ready.

    :param data: the encoded image (or bare rows).
    :param shape: (height, width, channels).
    :param details: everything that is needed to generate the image again.
    :param last: whether this is the last image.
    """

    data: bytes
    shape: tuple[int, int, int]
    details: dict[str, Any]
    last: bool


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The part of the noise schedule that one network denoises.

    :param schedule: each phase has its own solver, so no solver state passes to the next phase.
    """

    schedule: Schedule
    predict: Predict


@dataclass(frozen=True, kw_only=True)
class GenerationJob:
    """The images of one request.

    :param vae_decoder: latents (n, channels, h, w) -> image (n, 8h, 8w, 3) uint8.
    :param details: what the images carry beside `base_details`.
    :param stopped: asked before every step whether the client has gone.
    :param check: of the images before they are sent; there are no previews of them. None: they are not checked.
    :param finish: makes the result of a decoded image, with details of its own; it runs in a thread.
    """

    request: ImageRequest
    checkpoint: CheckpointInfo
    vae_decoder: Network
    details: Mapping[str, Any]
    stopped: Callable[[], bool]
    check: ImageCheck | None = None
    finish: Callable[[Pixels], tuple[Pixels, Mapping[str, Any]]] = lambda pixels: (pixels, {})


def steps_of(phases: Sequence[Phase]) -> int:
    """The number of network calls of all phases together."""
    return sum(len(phase.schedule) for phase in phases)


async def run(
    job: GenerationJob,
    noise: Tensor,
    phases: Sequence[Phase],
    generators: Sequence[torch.Generator],
    original: Original | None = None,
) -> AsyncGenerator[GenerationProgress | FinishedImage, None]:
    """Denoise, decode and encode. Yields `GenerationProgress` for the steps that the request wants reported, then one
    `FinishedImage` per image.

    :param noise: (n, channels, h, w), a row per image.
    :param phases: one after the other; each begins with the latents that the one before has left, as they are.
    :param original: the image that is changed, if there is one.
    :raises Cancelled: `job.stopped` said so.
    :raises ModerationBlocked: `job.check` refuses an image.
    """
    request = job.request
    preview_every = 0 if job.check else request.preview_every
    if original is not None:
        phases = [phase for phase in phases if len(phase.schedule)] or phases[:1]
    first = phases[0].schedule
    latents = initial_latents(noise, first) if original is None else original.begin(noise, first)
    done, total, began = 0, steps_of(phases), time.monotonic()
    before, size = began, side_of(request.width, request.height)
    with tracing.span("denoise", current=False, steps=total, images=len(latents)) as span:
        for phase in phases:
            keep = None if original is None else original.keep(noise)
            predict = _traced(phase.predict, span, done)
            async for stepped in denoise(
                latents, phase.schedule, predict, generators=generators, stopped=job.stopped, keep=keep
            ):
                latents = stepped.latents
                done += 1
                now = time.monotonic()
                RECORDER.observe(STEP, now - before, size=size)
                before = now
                wanted = _due(preview_every, done) and done < total
                preview = _preview(stepped, phase.schedule, job.checkpoint) if wanted else None
                if wanted or _due(request.progress_every, done):
                    yield GenerationProgress(done=done, total=total, preview=preview)
            if keep is not None:  # the pipeline of the next network draws its own, in diffusers
                noise = get_noise(generators, latents.shape[1:])
    RECORDER.observe(STAGE, time.monotonic() - began, stage="denoise", size=size)
    async for picture in _pictures(latents, job):
        yield picture


def _traced(predict: Predict, denoising: tracing.Span, before: int) -> Predict:
    """`predict` with a span for each step; there were `before` steps in other phases."""

    async def traced(step: Step) -> Tensor:
        with tracing.span("step", parent=denoising, step=before + step.index + 1, timestep=step.timestep):
            return await predict(step)

    return predict if denoising is tracing.OFF else traced


def _due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0


def _preview(stepped: Stepped, schedule: Schedule, checkpoint: CheckpointInfo) -> bytes:
    """PNG, one pixel per latent: a linear guess at what the VAE would make of the predicted image."""
    original = predicted_original(stepped, schedule)
    matrix = torch.tensor(checkpoint.latent_rgb)
    rgb = torch.einsum("nchw,cr->nhwr", original, matrix[:-1]) + matrix[-1]
    pixels = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return encode_png(np.concatenate(pixels, axis=1))


async def _pictures(latents: Tensor, job: GenerationJob) -> AsyncIterator[FinishedImage]:
    """Decode and encode one image after the other; the decoder has all of them from the start."""
    size = job.request.width, job.request.height
    with stage("decode", *size):
        images = (await job.vae_decoder({"latents": latents.numpy()}))["image"]
    flagged = await job.check(images) if job.check else [False] * len(images)
    for index, decoded in enumerate(images):
        pixels, own = await asyncio.to_thread(job.finish, np.zeros_like(decoded) if flagged[index] else decoded)
        details = {**base_details(job.request, job.checkpoint, index), **job.details, **own}
        details |= {FLAGGED: True} if flagged[index] else {}
        with stage("write", *size):
            data = await asyncio.to_thread(_encoded, pixels, job.request, details)
        height, width, channels = pixels.shape
        yield FinishedImage(data=data, shape=(height, width, channels), details=details, last=index + 1 == len(images))


def _encoded(pixels: Pixels, request: ImageRequest, details: Mapping[str, Any]) -> bytes:
    text = text_chunks(details)
    return encode(Picture(rgb=pixels), format=request.format, quality=request.quality, text=text)


def base_details(request: ImageRequest, checkpoint: CheckpointInfo, index: int) -> dict[str, Any]:
    """The parameters that generate image `index` again by itself; they are embedded in the image."""
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or "",
        "steps": request.steps,
        "scheduler": scheduler_key(checkpoint.scheduler, request.scheduler),
        "guidance_scale": request.guidance_scale,
        "seed": request.seed + index,
        "width": request.width,
        "height": request.height,
        "model": checkpoint.name,
        "model_hash": checkpoint.digest,
        "index": index,
        "version": __version__,
    }


async def respond(
    events: AsyncGenerator[GenerationProgress | FinishedImage, None], send: Callable[[Mapping[str, Array], bool], None]
) -> None:
    """Send every event as a Triton response: progress, and what came with it.

    :param send: is given the outputs, and whether they are the last ones.
    """
    steps = 0
    async with aclosing(events):
        async for event in events:
            if isinstance(event, GenerationProgress):
                steps = event.total
                send(_progress(event), False)
            else:
                send(_finished(event, steps), event.last)


def _progress(event: GenerationProgress) -> Mapping[str, Array]:
    outputs = {"progress": np.array([event.done, event.total], np.int32)}
    for name, data in (("preview", event.preview), ("control_map", event.control_map)):
        if data is not None:
            outputs[name] = np.frombuffer(data, np.uint8)
    return outputs


def _finished(event: FinishedImage, steps: int) -> Mapping[str, Array]:
    return {
        "progress": np.array([steps, steps], np.int32),
        "image": np.frombuffer(event.data, np.uint8),
        "shape": np.array(event.shape, np.int32),
        "details": np.array([json.dumps(event.details)], np.object_),
    }
