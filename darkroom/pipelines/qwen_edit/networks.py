"""The models of the family as data: text encoder and transformer in torch, VAE as ONNX networks, and the pipeline.

Architecture: Qwen/Qwen-Image-Edit, -2509 and -2511 as diffusers lays them out, at any widths. Latents at every border
are the scheduler's: the VAE's means and deviations are part of its graphs. Tensors are fp32 outside whatever the
precision of the weights, and images are 8 bits, because they travel between processes.

No repository has these models before they are exported (`on_demand`): few machines have room for the checkpoint.
"""

from __future__ import annotations

import numpy as np

from darkroom.pipelines.qwen_edit.checkpoint import LATENT_CHANNELS as LATENT_CHANNELS
from darkroom.pipelines.qwen_edit.checkpoint import MOST_IMAGES, PATCH_SIZE, TOKENIZER_NAME
from darkroom.pipelines.qwen_edit.checkpoint import VAE_SCALE_FACTOR as VAE_SCALE_FACTOR
from darkroom.pipelines.qwen_edit.request import EditRequest
from darkroom.png import encode_png
from darkroom.request.tensors import triton_inputs
from darkroom.serving.networks import BF16_ON_CPU, DECODER_ROWS, ENCODER_ROWS, ModelSpec, Tensors, TensorSpec
from darkroom.serving.picture_model import PICTURE, PREVIEW, PROGRESS

TOKEN_CHANNELS = LATENT_CHANNELS * PATCH_SIZE**2
"""Numbers of a token of the transformer: the latents of a square."""
TRAINED_STEPS = 1000
"""Of the noise schedule that timesteps count."""
POSITIONS = 4096
"""Rotary positions of the transformer; text begins behind half of the longest side of an image, in tokens."""
CONTROL, CONTROL_SCALE = "control_tokens", "control_scale"
CONTROL_TEXT, CONTROL_TEXT_TOKENS = "control_hidden_states", "control_text_tokens"
"""Inputs of the transformer where its ControlNet acts."""
CONTROLNET_FOLDER = "controlnet"
"""The folder of the ControlNet beside the transformer's weights, if there is one."""
GRIDS = MOST_IMAGES + 1
"""Images of a row of the transformer: the one that is made, and those that it reads."""

_LATENTS = (LATENT_CHANNELS, -1, -1)
_PIXELS = (-1, -1, 3)

# Rows of one forward pass, by their tokens with padding. What runs together has to fit beside the weights (41 GB in
# bf16), and gains little where a row alone fills the device. Nothing is measured on a GPU yet.
_ROWS = {"rows_by_size": "tokens hidden_states 512:16 1024:8 2048:4 8192:2"}
_ROWS_CPU = {"rows_by_size": "tokens hidden_states 256:8 1024:4 2048:2"}


def _tensor(name: str, dtype: str, dims: tuple[int, ...], help: str, *, optional: bool = False) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, dims=dims, help=help, optional=optional)  # type: ignore[arg-type]


def _control(name: str, dtype: str, dims: tuple[int, ...], help: str) -> TensorSpec:
    return _tensor(name, dtype, dims, f"of a ControlNet: {help}", optional=True)


TEXT_ENCODER = ModelSpec(
    name="qwen_edit_text_encoder",
    backend="python",
    implementation="darkroom.pipelines.qwen_edit.text_encoder_model:QwenEditTextEncoderModel",
    inputs=(
        _tensor("input_ids", "INT64", (-1,), "tokens, padded to one length"),
        _tensor("attention_mask", "INT64", (-1,), "1 for tokens, 0 for padding behind them"),
        _tensor("pixel_values", "FP32", (-1, -1), "patches of all images of a prompt, one image after the other"),
        _tensor("image_grid_thw", "INT64", (-1, 3), "of each image: frames (1), and patches along height and width"),
    ),
    outputs=(_tensor("prompt_embeds", "FP32", (-1, -1), "the last hidden state: tokens x width"),),
    on_demand=True,
    max_batch_size=8,
    max_batch_size_cpu=4,
    files=("config.json",),
)
"""Its weights are safetensors beside config.json, in one file or several. The pipeline's canary reaches it."""

TRANSFORMER = ModelSpec(
    name="qwen_edit_transformer",
    backend="python",
    implementation="darkroom.pipelines.qwen_edit.transformer_model:QwenEditTransformerModel",
    inputs=(
        _tensor("hidden_states", "FP32", (-1, TOKEN_CHANNELS), "noisy tokens, those of the references, and padding"),
        _tensor("grids", "INT32", (GRIDS, 2), "height and width in tokens: the noisy image, references, then zeros"),
        _tensor("timestep", "FP32", (1,), "0 to 1000; each row has its own"),
        _tensor("encoder_hidden_states", "FP32", (-1, -1), "tokens x width of the text encoder, and padding"),
        _tensor("text_tokens", "INT32", (1,), "how many of them are no padding"),
        _control(CONTROL, "FP32", (-1, TOKEN_CHANNELS), "the control image as large as the noisy one, and padding"),
        _control(CONTROL_SCALE, "FP32", (1,), "a factor of what it adds"),
        _control(CONTROL_TEXT, "FP32", (-1, -1), "tokens x width of the prompt that steers, and padding"),
        _control(CONTROL_TEXT_TOKENS, "INT32", (1,), "how many of them are no padding"),
    ),
    outputs=(
        _tensor("noise_pred", "FP32", (-1, TOKEN_CHANNELS), "the velocity of the noisy tokens; the others are zeros"),
    ),
    on_demand=True,
    max_batch_size=16,
    max_batch_size_cpu=8,
    parameters=_ROWS,
    parameters_cpu=_ROWS_CPU,
    files=("config.json",),
)
"""Weights as those of the text encoder."""

VAE_ENCODER = ModelSpec(
    name="qwen_edit_vae_encoder",
    backend="onnxruntime",
    inputs=(_tensor("image", "UINT8", _PIXELS, "RGB, sides multiples of 16"),),
    outputs=(_tensor("mean", "FP32", _LATENTS, "of the posterior, normalised"),),
    on_demand=True,
    max_batch_size=4,
    parameters=ENCODER_ROWS,
    files=("model.onnx",),
    canary=lambda: {"image": np.zeros((1, 64, 64, 3), np.uint8)},
)
VAE_DECODER = ModelSpec(
    name="qwen_edit_vae_decoder",
    backend="onnxruntime",
    inputs=(_tensor("latents", "FP32", _LATENTS, "denoised"),),
    outputs=(_tensor("image", "UINT8", _PIXELS, "RGB, eight times as high and wide"),),
    on_demand=True,
    max_batch_size=4,
    parameters=DECODER_ROWS,
    parameters_cpu=BF16_ON_CPU,
    files=("model.onnx",),
    canary=lambda: {"latents": np.zeros((1, LATENT_CHANNELS, 8, 8), np.float32)},
)


def _canary() -> Tensors:
    image = encode_png(np.zeros((64, 64, 3), np.uint8))
    return {
        "prompt": np.array(["a cat"], np.object_),
        "images": np.array([image], np.object_),
        "steps": np.array([2], np.int32),
        "seed": np.array([0], np.int64),
        "align": np.array([False]),
    }


PIPELINE = ModelSpec(
    name="qwen_edit",
    backend="python",
    implementation="darkroom.pipelines.qwen_edit.model:QwenEditModel",
    decoupled=True,
    on_demand=True,
    inputs=triton_inputs(EditRequest),
    outputs=(PROGRESS, PREVIEW, *PICTURE),
    files=("pipeline.json", TOKENIZER_NAME),
    canary=_canary,
)


def networks() -> tuple[ModelSpec, ...]:
    """Every network of this family."""
    return (TEXT_ENCODER, TRANSFORMER, VAE_ENCODER, VAE_DECODER)


def specs() -> tuple[ModelSpec, ...]:
    """Every model of this family, for the renderer of the model repository."""
    return (*networks(), PIPELINE)
