"""What the denoising loop needs to know about a Qwen-Image-Edit checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkroom.diffusion import checkpoint

TOKENIZER_NAME = "tokenizer.json"
LATENT_CHANNELS = 16
VAE_SCALE_FACTOR = 8
"""Pixels per latent along each axis."""
PATCH_SIZE = 2
"""Latents per token of the transformer along each axis."""
SIDE_MULTIPLE = VAE_SCALE_FACTOR * PATCH_SIZE
"""Pixels of a token along each axis."""
MOST_IMAGES = 5
"""Images that one edit may read; the plus models were trained with up to three."""


@dataclass(frozen=True, kw_only=True)
class QwenEditCheckpointInfo(checkpoint.CheckpointInfo):
    """A Qwen-Image-Edit-class checkpoint, without its weights.

    The areas are in pixels, and images keep their proportions. Published checkpoints have 384 x 384 and 1024 x 1024;
    small ones say others in generation_config.json.

    :param plus: whether it reads several images, as QwenImageEditPlusPipeline (2509, 2511).
    :param steps, true_guidance_scale: of a request that names none.
    :param condition_area: about how large the text encoder sees each image; of a checkpoint that is not plus, it is the
        reference area.
    :param reference_area: about how large the transformer sees each image.
    :param image_processor: preprocessor_config.json, the arguments of transformers' Qwen2VLImageProcessorPil.
    :param image_token: the token that stands for a part of an image in prompts.
    :param dropped_tokens: how many tokens at the start of a prompt, which are the same in all, are left out.
    :param controlnet: the name of the ControlNet beside the transformer, which control images go through; "" for none:
        they are one more image.
    """

    plus: bool
    steps: int
    true_guidance_scale: float
    condition_area: int
    reference_area: int
    image_processor: dict[str, Any]
    image_token: str
    dropped_tokens: int
    controlnet: str = ""

    @property
    def request_defaults(self) -> dict[str, Any]:
        return {"steps": self.steps, "true_guidance_scale": self.true_guidance_scale}

    @property
    def most_images(self) -> int:
        """How many images one edit may read."""
        return MOST_IMAGES if self.plus else 1
