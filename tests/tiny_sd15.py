"""Tiny networks of SD 1.5's classes: diffusers' pipelines of them, and a `Components` on the same weights."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from transformers import CLIPTokenizer

from darkroom.diffusion.generation import FinishedImage
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.pipelines.sd15.pipeline import Components, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.serving.networks import Array, Network, Tensors
from exporters.graphs.clip import ServedTextEncoder
from exporters.graphs.vae import ServedVaeDecoder, ServedVaeEncoder
from exporters.onnx_export import quiet
from exporters.sd15 import graphs
from exporters.sd15.pipeline import effective_scheduler
from tests import sd15_checkpoints

SIDE = 64

Pictures = NDArray[np.uint8]
"""(n, height, width, 3)."""


def make_pipeline(folder: Path, **unet: Any) -> StableDiffusionPipeline:
    """diffusers' pipeline of a tiny checkpoint that is written to `folder`; the weights are the same every time.

    :param unet: changes for `sd15_checkpoints.make_unet`.
    """
    sd15_checkpoints.write_checkpoint(folder, unet=unet)
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def strengthen_prompts(unet: UNet2DConditionModel, factor: float = 30.0) -> None:
    """Multiply what `unet` reads of its prompt: with random weights it hardly changes an image."""
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2.to_out" in name or "attn2.to_v" in name:
                weight *= factor**0.5


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of `unet` that does something; its weights are the same every time."""
    torch.manual_seed(1)
    return sd15_checkpoints.make_controlnet(unet).eval()


def controlled_pipeline(
    pipeline: StableDiffusionPipeline, controlnet: ControlNetModel
) -> StableDiffusionControlNetPipeline:
    """diffusers' ControlNet pipeline with the networks of a plain one."""
    with quiet():
        controlled = StableDiffusionControlNetPipeline.from_pipe(pipeline, controlnet=controlnet)
    controlled.set_progress_bar_config(disable=True)
    return controlled


def make_components(pipeline: StableDiffusionPipeline, controlnet: ControlNetModel | None = None) -> Components:
    """What our loop runs on: the pipeline's own networks, called as served ones are."""
    unet: UNet2DConditionModel = pipeline.unet
    vae: AutoencoderKL = pipeline.vae
    controls = {} if controlnet is None else {"canny": graphs.ServedControlUnet(unet, controlnet)}
    return Components(
        checkpoint=_checkpoint(pipeline),
        tokenizer=plain_tokenizer(pipeline.tokenizer),
        limits=Settings(),
        text_encoder=network(ServedTextEncoder(pipeline.text_encoder), "prompt_embeds"),
        unet=network(graphs.ServedUnet(unet), "noise_pred"),
        vae_encoder=network(ServedVaeEncoder(vae), "mean", "std"),
        vae_decoder=network(ServedVaeDecoder(vae), "image"),
        control_unets={kind: network(module, "noise_pred") for kind, module in controls.items()},
    )


def our_pictures(components: Components, control_image: bytes | None = None, **fields: Any) -> Pictures:
    """What the loop makes of a request."""
    given = {"format": "raw", **fields} | ({} if control_image is None else {"control_image": control_image})
    request = GenerateRequest.parse(given, components.limits)

    async def collect() -> list[Pictures]:
        events = [event async for event in generate(request, components)]
        return [np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)]

    return np.stack(asyncio.run(collect()))


def their_pictures(pipeline: Any, *, seed: int, num_images: int = 1, **arguments: Any) -> Pictures:
    """What diffusers makes of the same; the k-th picture has the seed `seed` + k."""
    generators = [torch.Generator().manual_seed(seed + k) for k in range(num_images)]
    images = pipeline(num_images_per_prompt=num_images, generator=generators, **arguments).images
    return np.stack([np.asarray(image) for image in images])


def network(module: nn.Module, *outputs: str) -> Network:
    """A torch module of named arguments as a network of one output, or of several."""
    names: Callable[..., Any] = module.forward

    async def call(inputs: Tensors) -> dict[str, Array]:
        assert set(inputs) == set(inspect.signature(names).parameters)
        with torch.no_grad():
            answer = module(**{name: torch.from_numpy(value.copy()) for name, value in inputs.items()})
        several = answer if isinstance(answer, tuple) else (answer,)
        return {name: one.numpy() for name, one in zip(outputs, several, strict=True)}

    return call


def plain_tokenizer(tokenizer: CLIPTokenizer) -> Tokenizer:
    """The same tokenizer for the loop, which neither pads nor cuts off."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    return plain


def _checkpoint(pipeline: StableDiffusionPipeline) -> Sd15CheckpointInfo:
    tokenizer = pipeline.tokenizer
    return Sd15CheckpointInfo(
        name="tiny",
        digest="0123456789",
        side=SIDE,
        scheduler=effective_scheduler({**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}),
        max_tokens=77,
        guidance_scale=7.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        latent_rgb=[[0.2, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.2], [0.1, 0.1, 0.1], [0.5, 0.5, 0.5]],
        inpaints=pipeline.unet.config.in_channels == 9,
    )
