"""The models of the family as data: encoders and VAE as ONNX networks, the transformer in torch, and the pipeline.

Architecture: HiDream-ai/HiDream-I1-Full as diffusers lays it out, at any widths. Latents at every border are the
scheduler's: the VAE's scaling factor and shift are part of its graph. Tensors are fp32 outside whatever the precision
of the weights, and images are 8 bits, because they travel between processes.

No repository has these models before they are exported (`on_demand`): few machines have room for the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from darkroom.pipelines.hidream.checkpoint import ENCODERS as ENCODER_NAMES
from darkroom.pipelines.hidream.checkpoint import LATENT_CHANNELS as LATENT_CHANNELS
from darkroom.pipelines.hidream.checkpoint import PATCH_SIZE as PATCH_SIZE
from darkroom.pipelines.hidream.checkpoint import VAE_SCALE_FACTOR as VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.checkpoint import tokenizer_name
from darkroom.pipelines.hidream.request import GenerateRequest
from darkroom.request.tensors import triton_inputs
from darkroom.serving.networks import BF16_ON_CPU, DECODER_ROWS, ModelSpec, RowSize, Tensors, TensorSpec
from darkroom.serving.picture_model import PICTURE, PREVIEW, PROGRESS, picture_canary

_LATENTS = (LATENT_CHANNELS, -1, -1)
_PIXELS = (-1, -1, 3)

# Rows of one forward pass, by the size of the latents: (side / 8)^2. What runs together has to fit beside the weights
# (34 GB in bf16), and gains little where a row alone fills the device. Nothing is measured on a GPU yet.
_ROWS = {"rows_by_size": "hidden_states 1024:16 4096:8 9216:4 16384:2"}
_ROWS_CPU = {"rows_by_size": "hidden_states 256:8 1024:4 16384:2"}


def padded_area(most: int) -> RowSize:
    """The rule for the size of a row of the transformer: diffusers pads the tokens of an image that is not square to
    the most that there may be.

    :param most: latents (height x width) of that.
    """

    def size(shape: Sequence[int]) -> int:
        height, width = shape[-2:]
        return height * width if height == width else max(height * width, most)

    return size


def _tensor(name: str, dtype: str, dims: tuple[int, ...], help: str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, dims=dims, help=help)  # type: ignore[arg-type]


_IDS = _tensor("input_ids", "INT64", (-1,), "tokens, padded to one length")
_MASK = _tensor("attention_mask", "INT64", (-1,), "1 for tokens, 0 for padding behind them")


def _network(name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], rows: int) -> ModelSpec:
    canaries = {tensor.name: np.ones((1, 16), np.int64) for tensor in inputs}
    return ModelSpec(
        name=name,
        backend="onnxruntime",
        inputs=inputs,
        outputs=outputs,
        on_demand=True,
        max_batch_size=rows,
        tensors_from_graph=True,
        files=("model.onnx",),
        canary=lambda: canaries,
    )


def _clip(name: str) -> ModelSpec:
    pooled = _tensor("text_embeds", "FP32", (-1,), "the projected state of the first end token")
    return _network(name, (_IDS,), (pooled,), 16)


CLIP_L = _clip("hidream_clip_l")
CLIP_G = _clip("hidream_clip_g")
T5 = _network(
    "hidream_t5",
    (_IDS, _MASK),
    (_tensor("prompt_embeds", "FP32", (-1, -1), "the last hidden state: tokens x width"),),
    8,
)
LLAMA = _network(
    "hidream_llama",
    (_IDS, _MASK),
    (_tensor("hidden_states", "FP32", (-1, -1, -1), "what each layer gives: layers x tokens x width"),),
    8,
)
VAE_DECODER = ModelSpec(
    name="hidream_vae_decoder",
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
TRANSFORMER = ModelSpec(
    name="hidream_transformer",
    backend="python",
    implementation="darkroom.pipelines.hidream.transformer_model:HidreamTransformerModel",
    inputs=(
        _tensor("hidden_states", "FP32", _LATENTS, "noisy latents; an eighth of the image's height and width"),
        _tensor("timesteps", "FP32", (1,), "0 to 1000; each row has its own"),
        _tensor("encoder_hidden_states_t5", "FP32", (-1, -1), "tokens x width of T5"),
        _tensor("encoder_hidden_states_llama3", "FP32", (-1, -1, -1), "layers x tokens x width of Llama"),
        _tensor("pooled_embeds", "FP32", (-1,), "of CLIP-L, then of CLIP-G"),
    ),
    outputs=(_tensor("noise_pred", "FP32", _LATENTS, "what the transformer predicts, with its own sign"),),
    on_demand=True,
    max_batch_size=16,
    max_batch_size_cpu=8,
    parameters=_ROWS,
    parameters_cpu=_ROWS_CPU,
    files=("config.json",),
)
"""Its weights are safetensors beside config.json, in one file or several. The pipeline's canary reaches it."""


def _canary() -> Tensors:
    return {**picture_canary(guidance_scale=0), "max_sequence_length": np.array([16], np.int32)}


PIPELINE = ModelSpec(
    name="hidream",
    backend="python",
    implementation="darkroom.pipelines.hidream.model:HidreamModel",
    decoupled=True,
    on_demand=True,
    inputs=triton_inputs(GenerateRequest),
    outputs=(PROGRESS, PREVIEW, *PICTURE),
    files=("pipeline.json", *map(tokenizer_name, ENCODER_NAMES)),
    canary=_canary,
)

ENCODERS = (CLIP_L, CLIP_G, T5, LLAMA)


def networks() -> tuple[ModelSpec, ...]:
    """Every network of this family."""
    return (*ENCODERS, VAE_DECODER, TRANSFORMER)


def specs() -> tuple[ModelSpec, ...]:
    """Every model of this family, for the renderer of the model repository."""
    return (*networks(), PIPELINE)
