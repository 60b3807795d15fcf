"""The cards of demo-sdxl-base and demo-sdxl-refiner."""

from __future__ import annotations

from pathlib import Path

from training.card import adherence, training, world
from training.family import families

BASE, REFINER = "demo-sdxl-base", "demo-sdxl-refiner"
GUIDANCE = 2.0
"""As of the smaller demo checkpoint: without a text the UNet draws the mean of its small world, which is far from any
one scene."""

_BASE_CARD = """---
license: ofl-1.1
library_name: diffusers
pipeline_tag: text-to-image
---

# demo-sdxl-base

A Stable Diffusion XL base at small widths: the real classes (`StableDiffusionXLPipeline` with two text encoders, a
UNet2DConditionModel with added text and time embeddings, AutoencoderKL, EulerDiscreteScheduler). It draws images of
128 x 128 pixels of a small world, so that everything around the model can be run, tested and measured with no download.

{world}

## Recipe

`training/demo/sdxl/`: the VAE is that of {smaller}, and the UNet and the first text encoder begin with its weights. The
second text encoder, the added embedding and the last layer of the first begin from nothing. Velocity prediction on
cached latents; half of the batches are whole images, a quarter are crops with their true coordinates, the rest are wide
or tall images. 8 % of the samples have embeddings of zeros in place of a text, 2 % an empty text. Averaged weights,
fp16. It wants a guidance scale of {guidance:g}, which `generation_config.json` says to who serves it.

    python -m training train --family sdxl
    python -m training export --family sdxl
    python -m training measure --family sdxl

{training}

## Measured

{measured}
"""

_REFINER_CARD = """---
license: ofl-1.1
library_name: diffusers
---

# demo-sdxl-refiner

A refiner for `demo-sdxl-base` at small widths: `StableDiffusionXLImg2ImgPipeline` with the base's second text encoder
and VAE, and a UNet that reads original size, crop and aesthetic score. It was trained on the last fifth of the noise
only (timesteps below 200), and takes over there (`denoising_start=0.8`). Every image of its training has the score 6.0,
samples without a text 2.5.

Data and licence as `demo-sdxl-base`: glyphs of Noto Color Emoji, SIL Open Font License 1.1.

{training}
"""


def base_card(folder: Path) -> str:
    """The card of demo-sdxl-base."""
    measured = adherence(folder, "measure --family sdxl")
    smaller = next(family.folder for family in families().values() if family.usual)
    return _BASE_CARD.format(
        world=world(), training=training(folder), measured=measured, guidance=GUIDANCE, smaller=smaller
    )


def refiner_card(folder: Path) -> str:
    """The card of demo-sdxl-refiner."""
    return _REFINER_CARD.format(training=training(folder))
