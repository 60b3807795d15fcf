"""What the denoising loop needs to know about a HiDream checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from darkroom.diffusion import checkpoint
from darkroom.pipelines.hidream.variants import VARIANTS

LATENT_CHANNELS = 16
VAE_SCALE_FACTOR = 8
"""Pixels per latent along each axis."""
PATCH_SIZE = 2
"""Latents per token of the transformer along each axis."""
ENCODERS = ("clip_l", "clip_g", "t5", "llama")
"""The text encoders in diffusers' order: text_encoder, text_encoder_2, _3 and _4."""


def tokenizer_name(encoder: str) -> str:
    """The file beside pipeline.json that holds an encoder's tokenizer."""
    return f"tokenizer_{encoder}.json"


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How a prompt is padded to the requested number of tokens.

    :param max_tokens: that the encoder can read.
    :param pad_token, pad_token_id: what stands behind the prompt.
    """

    max_tokens: int
    pad_token: str
    pad_token_id: int


@dataclass(frozen=True, kw_only=True)
class HidreamCheckpointInfo(checkpoint.CheckpointInfo):
    """A HiDream-I1-class checkpoint, without its weights.

    :param variant: a name of `darkroom.pipelines.hidream.variants.VARIANTS`.
    :param max_tokens: of an image that is not square.
    :param padding: by encoder; each is the fields of a `Padding`.
    """

    variant: Literal["full", "dev", "fast"]
    max_tokens: int
    padding: dict[str, dict[str, int | str]]

    @property
    def request_defaults(self) -> dict[str, Any]:
        variant = VARIANTS[self.variant]
        return {"steps": variant.steps, "guidance_scale": variant.guidance_scale}
