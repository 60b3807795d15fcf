"""What the denoising loop needs to know about a Stable Diffusion 1.5-class checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkroom.diffusion import checkpoint
from darkroom.diffusion.checkpoint import FILE_NAME as FILE_NAME

TOKENIZER_NAME = "tokenizer.json"
LATENT_CHANNELS = 4
VAE_SCALE_FACTOR = 8
"""Pixels per latent along each axis."""


@dataclass(frozen=True, kw_only=True)
class Sd15CheckpointInfo(checkpoint.CheckpointInfo):
    """A Stable Diffusion 1.5-class checkpoint, without its weights.

    :param max_tokens: tokens of a chunk, begin and end included (77).
    :param guidance_scale: of a request that names none.
    :param bos_token_id, eos_token_id, pad_token_id: of the tokenizer.
    :param inpaints: whether its UNet is one for inpainting, which reads a mask and a masked image behind the latents.
    """

    max_tokens: int
    guidance_scale: float
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    inpaints: bool = False

    @property
    def request_defaults(self) -> dict[str, Any]:
        return {"guidance_scale": self.guidance_scale}
