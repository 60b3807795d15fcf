"""The networks of the demo checkpoints: the classes of Stable Diffusion 1.5 at small widths, 12 M weights in all."""

from __future__ import annotations

from typing import Any

from diffusers import ControlNetModel, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.networks import clip_config
from training.render import SIDE

WIDTH = 128
"""Width of the text embedding."""
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
"""SD 1.5's scheduler/scheduler_config.json (runwayml/stable-diffusion-v1-5), but for what the UNet predicts: that is
the velocity, as in SD 2.1, which a small UNet learns faster."""


def make_unet() -> UNet2DConditionModel:
    """The noise in 4 x 16 x 16 latents, given a text: 5.9 M weights, cross attention at 16 x 16 and 8 x 8."""
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """77 tokens to 77 x 128: 0.7 M weights, three layers."""
    return CLIPTextModel(clip_config(tokenizer, width=WIDTH, layers=3, heads=4))


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the encoder half of `unet` that reads a 3 x 128 x 128 control image (0 to 1): 2.6 M weights."""
    model: ControlNetModel = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 48, 64))
    return model


def training_scheduler() -> DDPMScheduler:
    """Adds the noise in training; the velocity is what the UNet learns."""
    return DDPMScheduler(**SCHEDULE)


def inference_scheduler() -> PNDMScheduler:
    """SD 1.5's default for making images."""
    settings = {key: value for key, value in SCHEDULE.items() if key != "clip_sample"}
    return PNDMScheduler(**settings, skip_prk_steps=True, set_alpha_to_one=False)
