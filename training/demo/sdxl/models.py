"""The networks of the demo checkpoints: small networks of the classes of SDXL base and refiner."""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.networks import clip_config
from training.render import SIDE

WIDTHS = (128, 64)
"""Widths of the two text encoders. The base attends to both side by side, the refiner to the second."""
TIME_WIDTH = 16
"""Width of the sinusoidal embedding of each number of the micro-conditioning; 256 in SDXL."""
BASE_NUMBERS, REFINER_NUMBERS = 6, 5
"""Micro-conditioning of the base: original size, crop, target size; of the refiner: original size, crop, score."""
REFINER_BELOW = 200
"""The refiner is trained on the timesteps below this one: the last fifth of the noise."""
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}
"""SDXL's scheduler/scheduler_config.json (stabilityai/stable-diffusion-xl-base-1.0), but for what the UNet predicts:
that is the velocity, which a small UNet learns faster."""


def make_unet() -> UNet2DConditionModel:
    """The base: the noise in 4 x 16 x 16 latents, given a text and where the image was cropped; 6 M weights.

    The blocks are those of the smaller demo checkpoint, whose weights it begins with; projections are linear and there
    is an added embedding, as in SDXL.
    """
    return _unet(widths=(64, 128, 128), groups=16, attends_to=sum(WIDTHS), numbers=BASE_NUMBERS)


def make_refiner() -> UNet2DConditionModel:
    """The refiner: as the base, narrower, 1.6 M weights."""
    return _unet(widths=(32, 64, 64), groups=16, attends_to=WIDTHS[1], numbers=REFINER_NUMBERS)


def _unet(*, widths: tuple[int, ...], groups: int, attends_to: int, numbers: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=attends_to,
        attention_head_dim=4,
        norm_num_groups=groups,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=WIDTHS[1] + numbers * TIME_WIDTH,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """77 tokens to 77 x 128, by the layer before the last of four."""
    return CLIPTextModel(clip_config(tokenizer, width=WIDTHS[0], layers=4, heads=4))


def make_text_encoder_2(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """77 tokens to 77 x 64, by the layer before the last of three, and to a pooled embedding of 64."""
    return CLIPTextModelWithProjection(clip_config(tokenizer, width=WIDTHS[1], layers=3, heads=4))


def encode(encoder: nn.Module, tokens: Tensor) -> tuple[Tensor, Any]:
    """(B, 77) tokens -> (B, 77, width) states of the layer before the last, and the whole output."""
    output = encoder(tokens, output_hidden_states=True)
    return output.hidden_states[-2], output


def training_scheduler() -> DDPMScheduler:
    """Adds the noise in training."""
    return DDPMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1)


def inference_scheduler() -> EulerDiscreteScheduler:
    """SDXL's default for making images."""
    return EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
