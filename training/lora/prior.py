"""Prior images: images that the checkpoint makes of other captions, so that it does not forget them.

Prior preservation (Ruiz et al. 2023, DreamBooth, section 3.3): a step learns from them as much as from the images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from exporters.checkpoints.latent_diffusion import generation_value
from training.lora.family import LoraFamily

PRIOR_WEIGHT = 1.0
"""Of the loss of prior images, beside that of the images that are learnt."""
_STEPS = 20
_GUIDANCE, _GUIDANCE_RANGE = 5.0, (0.0, 50.0)
"""Where the checkpoint says nothing of it."""


def prior_maker(
    family: LoraFamily, root: Path, device: torch.device, side: int
) -> Callable[[str, torch.Generator], Tensor]:
    """Load a checkpoint; returns what makes the latents (channels, height, width) of a caption, float32 on the CPU.

    :param root: the folder of the checkpoint.
    :param side: width and height of the images in pixels.
    """
    from diffusers import DPMSolverMultistepScheduler

    pipeline = family.pipeline(root, device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    guidance = float(generation_value(root, "guidance_scale", _GUIDANCE, _GUIDANCE_RANGE))

    def draw(caption: str, generator: torch.Generator) -> Tensor:
        made = pipeline(
            caption,
            width=side,
            height=side,
            num_inference_steps=_STEPS,
            guidance_scale=guidance,
            generator=generator,
            output_type="latent",
        )
        latents: Tensor = made.images[0].float().cpu()
        return latents

    return draw
