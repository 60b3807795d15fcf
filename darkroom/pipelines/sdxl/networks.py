"""The models of the family as data: seven kinds of network, and the pipeline that calls them.

Architecture: stabilityai/stable-diffusion-xl-base-1.0 and -refiner-1.0 as diffusers lays them out, at any widths.
Latents at every border are the scheduler's: the VAE's scaling factor is part of its graphs. Tensors are fp32 outside
whatever the precision of the weights, and images have 8 bits, because they travel between processes.

No repository has these models before they are exported (`on_demand`): the checkpoint is one that few have room for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from darkroom.diffusion import control
from darkroom.diffusion.controls import control_names
from darkroom.diffusion.lora_reader import reader_spec
from darkroom.pipelines.sdxl.checkpoint import LATENT_CHANNELS, TOKENIZERS
from darkroom.pipelines.sdxl.request import GenerateRequest
from darkroom.request.tensors import triton_inputs
from darkroom.serving.networks import BF16_ON_CPU, DECODER_ROWS, ENCODER_ROWS, ModelSpec, Tensors, TensorSpec
from darkroom.serving.picture_model import PICTURE, PREVIEW, PROGRESS, picture_canary

_PIPELINE = "sdxl"
_LATENTS = (LATENT_CHANNELS, -1, -1)
_EMBEDS = (-1, -1)
BASE_IDS = 6
"""Numbers of the micro-conditioning: original height and width, crop top and left, target height and width."""
REFINER_IDS = 7
"""The same, and the aesthetic score; the refiner's graph takes those that it was trained with."""

# Rows of one forward pass, by the size of the latents, as for the UNet of Stable Diffusion 1.5
# (docs/decisions/0009-rows-per-execution.md); nothing is measured for this one yet.
_ROWS = {"rows_by_size": "latents 1024:16 4096:8 9216:4 16384:2"}
_ROWS_CPU = {"rows_by_size": "latents 256:8 1024:4 16384:2"}

_IDS = TensorSpec(name="input_ids", dtype="INT64", dims=(-1,), help="77 tokens, with begin and end")
_STATES = TensorSpec(name="prompt_embeds", dtype="FP32", dims=_EMBEDS, help="the hidden state before the last layer")
_POOLED = TensorSpec(name="text_embeds", dtype="FP32", dims=(-1,), help="the projected state of the first end token")


def _text_encoder(name: str, *outputs: TensorSpec) -> ModelSpec:
    return ModelSpec(
        name=name,
        backend="onnxruntime",
        inputs=(_IDS,),
        outputs=outputs,
        on_demand=True,
        max_batch_size=16,
        tensors_from_graph=True,
        files=("model.onnx",),
        canary=lambda: {"input_ids": np.zeros((1, 77), np.int64)},
    )


def _unet(name: str, ids: int, sizes: str, *more: TensorSpec, canary: Callable[[], Tensors] | None = None) -> ModelSpec:
    """A UNet, with the inputs that it has beside the plain one's. The plain ones have no canary of their own: only the
    pipeline knows how wide the checkpoint's embeddings are."""
    return ModelSpec(
        name=name,
        backend="onnxruntime",
        on_demand=True,
        inputs=(
            TensorSpec(
                name="latents",
                dtype="FP32",
                dims=(-1, -1, -1),
                help="noisy, as the scheduler scales them; for inpainting, mask and masked image behind them",
            ),
            TensorSpec(name="timestep", dtype="FP32", dims=(1,), help="0 to 999; each row has its own"),
            TensorSpec(name="prompt_embeds", dtype="FP32", dims=_EMBEDS, help="tokens x width of the text encoders"),
            TensorSpec(name="text_embeds", dtype="FP32", dims=(-1,), help="of the second text encoder"),
            TensorSpec(name="time_ids", dtype="FP32", dims=(ids,), help=sizes),
            *more,
        ),
        outputs=(TensorSpec(name="noise_pred", dtype="FP32", dims=_LATENTS, help="what it predicts: noise, for most"),),
        max_batch_size=16,
        max_batch_size_cpu=8,
        parameters=_ROWS,
        parameters_cpu=_ROWS_CPU,
        files=("model.onnx",),
        canary=canary,
        canary_model=_PIPELINE if canary else "",
    )


_SIZES = "original height and width, crop top and left, target height and width"
TEXT_ENCODER = _text_encoder("sdxl_text_encoder", _STATES)
TEXT_ENCODER_2 = _text_encoder("sdxl_text_encoder_2", _STATES, _POOLED)
UNET = _unet("sdxl_unet", BASE_IDS, _SIZES)
REFINER_UNET = _unet("sdxl_refiner_unet", REFINER_IDS, f"{_SIZES}, aesthetic score")
VAE_ENCODER = ModelSpec(
    name="sdxl_vae_encoder",
    backend="onnxruntime",
    on_demand=True,
    inputs=(TensorSpec(name="image", dtype="UINT8", dims=(-1, -1, 3), help="RGB, sides multiples of 8"),),
    outputs=(
        TensorSpec(name="mean", dtype="FP32", dims=_LATENTS, help="of the posterior, times the scaling factor"),
        TensorSpec(name="std", dtype="FP32", dims=_LATENTS, help="of the posterior, times the scaling factor"),
    ),
    max_batch_size=4,
    parameters=ENCODER_ROWS,
    files=("model.onnx",),
    canary=lambda: {"image": np.zeros((1, 64, 64, 3), np.uint8)},
)
VAE_DECODER = ModelSpec(
    name="sdxl_vae_decoder",
    backend="onnxruntime",
    on_demand=True,
    inputs=(TensorSpec(name="latents", dtype="FP32", dims=_LATENTS, help="denoised"),),
    outputs=(TensorSpec(name="image", dtype="UINT8", dims=(-1, -1, 3), help="RGB, eight times as high and wide"),),
    max_batch_size=4,
    parameters=DECODER_ROWS,
    parameters_cpu=BF16_ON_CPU,
    files=("model.onnx",),
    canary=lambda: {"latents": np.zeros((1, LATENT_CHANNELS, 8, 8), np.float32)},
)
TEXT_ENCODERS = (TEXT_ENCODER, TEXT_ENCODER_2)


def control_unet(kind: str) -> ModelSpec:
    """The base's UNet with the ControlNet of that kind in one graph."""
    name = f"{UNET.name}_{kind}"
    return _unet(name, BASE_IDS, _SIZES, *control.INPUTS, canary=lambda: control.control_canary(kind))


CONTROL_UNETS: dict[str, ModelSpec] = {name: control_unet(name) for name in control_names()}


def _canary(served: Collection[str]) -> Tensors:
    """The smallest image that every UNet of the repository takes part in. Whatever the spacing of the timesteps, the
    first of three is in the first half of the noise schedule, and the last one in the second half."""
    if REFINER_UNET.name not in served:
        return picture_canary(guidance_scale=1)
    return {
        **picture_canary(guidance_scale=1),
        "steps": np.array([3], np.int32),
        "refiner_start": np.array([0.5], np.float32),
    }


PIPELINE = ModelSpec(
    name=_PIPELINE,
    backend="python",
    implementation="darkroom.pipelines.sdxl.model:SdxlModel",
    decoupled=True,
    on_demand=True,
    inputs=triton_inputs(GenerateRequest),
    outputs=(PROGRESS, PREVIEW, control.MAP, *PICTURE),
    files=("pipeline.json", *TOKENIZERS),
    canary_for=_canary,
)


LORAS = reader_spec("sdxl", on_demand=True)


def networks() -> tuple[ModelSpec, ...]:
    """Every network of this family."""
    return (*TEXT_ENCODERS, UNET, *CONTROL_UNETS.values(), REFINER_UNET, VAE_ENCODER, VAE_DECODER)


def specs() -> tuple[ModelSpec, ...]:
    """Every model of this family, for the renderer of the model repository."""
    return (*networks(), LORAS, PIPELINE)
