"""What the loop has to know of a Stable Diffusion XL-class checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkroom.diffusion import checkpoint

LATENT_CHANNELS = 4
VAE_SCALE_FACTOR = 8
"""Pixels per latent along each axis."""
TOKENIZERS = ("tokenizer.json", "tokenizer_2.json")
"""The files beside pipeline.json that hold the tokenizers of the two text encoders."""
STEPS = 20
GUIDANCE_SCALE = 7.0
"""What Stable Diffusion XL is used with; a checkpoint may say otherwise."""


@dataclass(frozen=True, kw_only=True)
class ClipTokens:
    """The special tokens of a tokenizer; see `darkroom.prompts.clip.SpecialTokens`."""

    max_tokens: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


@dataclass(frozen=True, kw_only=True)
class SdxlCheckpointInfo(checkpoint.CheckpointInfo):
    """A Stable Diffusion XL-class checkpoint, without its weights.

    :param steps, guidance_scale: of a request that names none.
    :param force_zeros_for_empty_prompt: whether an absent negative prompt means embeddings of zeros; else it means
        those of the empty text.
    :param tokens: of the two tokenizers; each is the fields of a `ClipTokens`.
    :param inpaints: whether its UNet is one for inpainting, which reads a mask and a masked image behind the latents.
    """

    steps: int
    guidance_scale: float
    force_zeros_for_empty_prompt: bool
    tokens: list[dict[str, int]]
    inpaints: bool = False

    @property
    def request_defaults(self) -> dict[str, Any]:
        return {"steps": self.steps, "guidance_scale": self.guidance_scale}
