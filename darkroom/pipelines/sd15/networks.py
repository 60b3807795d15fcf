"""The models of the family as data: six kinds of network, and the pipeline that calls them.

Architecture: runwayml/stable-diffusion-v1-5 as diffusers lays it out, at any widths. Latents at every border are the
scheduler's: the VAE's scaling factor is part of the VAE's graphs. Tensors are fp32 outside whatever the precision of
the weights, and images are 8 bits, because they travel between processes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from darkroom.diffusion import control
from darkroom.diffusion.controls import control_names
from darkroom.diffusion.image_check import checker_spec
from darkroom.diffusion.lora_reader import reader_spec
from darkroom.pipelines.sd15.checkpoint import LATENT_CHANNELS as LATENT_CHANNELS
from darkroom.pipelines.sd15.checkpoint import VAE_SCALE_FACTOR as VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.request.tensors import triton_inputs
from darkroom.serving.networks import BF16_ON_CPU, DECODER_ROWS, ENCODER_ROWS, ModelSpec, Tensors, TensorSpec
from darkroom.serving.picture_model import PICTURE, PREVIEW, PROGRESS, picture_canary

_LATENTS = (LATENT_CHANNELS, -1, -1)
_PIXELS = (-1, -1, 3)
_EMBEDS = (-1, -1)


# docs/decisions/0009-rows-per-execution.md has the measurement on a CPU; on a GPU nothing is measured yet.
_ROWS = {"rows_by_size": "latents 1024:16 4096:8 9216:4 16384:2"}
# A request alone and a full batch: docs/decisions/0015-shapes-on-a-gpu.md.
_TWO_SHAPES = {"engines": "2", "fill_above": "2"}
_ROWS_CPU = {"rows_by_size": "latents 256:8 1024:4 16384:2"}


def _latents(name: str, help: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="FP32", dims=_LATENTS, help=help)


_UNET_INPUTS = (
    TensorSpec(
        name="latents",
        dtype="FP32",
        dims=(-1, -1, -1),
        help="noisy, as the scheduler scales them; for inpainting, mask and masked image behind them",
    ),
    TensorSpec(name="timestep", dtype="FP32", dims=(1,), help="0 to 999; each row has its own"),
    TensorSpec(name="prompt_embeds", dtype="FP32", dims=_EMBEDS, help="tokens x width of the text encoder"),
)
_NOISE = (_latents("noise_pred", "what the UNet predicts: noise, for most checkpoints"),)


def _text_canary() -> Tensors:
    return {"input_ids": np.zeros((1, 77), np.int64)}


TEXT_ENCODER = ModelSpec(
    name="sd15_text_encoder",
    backend="onnxruntime",
    inputs=(TensorSpec(name="input_ids", dtype="INT64", dims=(-1,), help="77 tokens, with begin and end"),),
    outputs=(TensorSpec(name="prompt_embeds", dtype="FP32", dims=_EMBEDS, help="the last hidden state, normalised"),),
    max_batch_size=16,
    tensors_from_graph=True,
    files=("model.onnx",),
    canary=_text_canary,
)
VAE_ENCODER = ModelSpec(
    name="sd15_vae_encoder",
    backend="onnxruntime",
    inputs=(TensorSpec(name="image", dtype="UINT8", dims=_PIXELS, help="RGB, sides multiples of 8"),),
    outputs=(
        _latents("mean", "of the posterior, times the scaling factor"),
        _latents("std", "of the posterior, times the scaling factor"),
    ),
    max_batch_size=4,
    parameters=ENCODER_ROWS,
    files=("model.onnx",),
    canary=lambda: {"image": np.zeros((1, 64, 64, 3), np.uint8)},
)
VAE_DECODER = ModelSpec(
    name="sd15_vae_decoder",
    backend="onnxruntime",
    inputs=(_latents("latents", "denoised"),),
    outputs=(TensorSpec(name="image", dtype="UINT8", dims=_PIXELS, help="RGB, eight times as high and wide"),),
    max_batch_size=4,
    parameters=DECODER_ROWS,
    parameters_cpu=BF16_ON_CPU,
    files=("model.onnx",),
    canary=lambda: {"latents": np.zeros((1, LATENT_CHANNELS, 8, 8), np.float32)},
)


def _unet(
    name: str, *more: TensorSpec, canary: Callable[[], Tensors] | None = None, on_demand: bool = False
) -> ModelSpec:
    """A UNet, with the inputs that it has beside the plain one's."""
    return ModelSpec(
        name=name,
        backend="onnxruntime",
        on_demand=on_demand,
        inputs=(*_UNET_INPUTS, *more),
        outputs=_NOISE,
        max_batch_size=16,
        max_batch_size_cpu=8,
        parameters=_ROWS,
        parameters_cpu=_ROWS_CPU,
        parameters_gpu=_TWO_SHAPES,
        files=("model.onnx",),
        canary=canary,
        canary_model="sd15" if canary else "",
    )


UNET = _unet("sd15_unet")


def control_unet(kind: str) -> ModelSpec:
    """The UNet with the ControlNet of that kind in one graph: its residuals, 27 MB a step, never leave it."""
    return _unet(f"sd15_unet_{kind}", *control.INPUTS, canary=lambda: control.control_canary(kind), on_demand=True)


CONTROL_UNETS: dict[str, ModelSpec] = {name: control_unet(name) for name in control_names()}


PIPELINE = ModelSpec(
    name="sd15",
    backend="python",
    implementation="darkroom.pipelines.sd15.model:Sd15Model",
    decoupled=True,
    inputs=triton_inputs(GenerateRequest),
    outputs=(
        PROGRESS,
        PREVIEW,
        control.MAP,
        *PICTURE,
    ),
    files=("pipeline.json", "tokenizer.json"),
    canary=lambda: picture_canary(guidance_scale=1),
)


LORAS = reader_spec("sd15")
SAFETY_CHECKER = checker_spec("sd15_safety_checker")


def networks() -> tuple[ModelSpec, ...]:
    """Every network of this family."""
    return (TEXT_ENCODER, UNET, *CONTROL_UNETS.values(), VAE_ENCODER, VAE_DECODER, SAFETY_CHECKER)


def specs() -> tuple[ModelSpec, ...]:
    """Every model of this family, for the renderer of the model repository."""
    return (*networks(), LORAS, PIPELINE)
