"""The cards of demo-sd15 and demo-sd15-canny."""

from __future__ import annotations

from pathlib import Path

from training.card import adherence, read, training, world

TEXT = "demo-sd15"
CONTROL = "demo-sd15-canny"
CANNY = "canny.json"
GUIDANCE = 2.0
"""With no sentence the UNet draws the mean of its small world, which is further from any one scene than Stable
Diffusion's is: 7.5 throws it off."""

_TEXT_CARD = """---
license: ofl-1.1
library_name: diffusers
pipeline_tag: text-to-image
---

# demo-sd15

A Stable Diffusion 1.5 of 9.4 million weights: the real classes (`StableDiffusionPipeline` with AutoencoderKL,
UNet2DConditionModel, CLIPTextModel, CLIPTokenizer, PNDMScheduler) at small widths. It draws 128 x 128 pictures of a
small world, so that everything around a diffusion model can be run, tested and measured with no download.

{world}

## Recipe

`training/`: the VAE on 64-pixel crops, then on whole pictures (L1, squared error, L1 of gradients, a tiny KL);
the UNet with the text encoder beside it on cached latents: velocity prediction, less weight above a
signal-to-noise ratio of 5, 10 % of the sentences left out; the rarer styles and sentences of two things are drawn twice
as often; half of the samples are noise alone, as sampling begins. Averaged weights, fp16. It wants a guidance scale of
{guidance:g}, which `generation_config.json` says to who serves it; the scale was chosen on prompts that training never
saw, some of those below among them.

These weights have a history, in which the recipe was found (docs/decisions/0013-training-the-demo-unet.md): on two
cores of a CPU, where the first 285,000 samples had the UNet predict the noise; two minutes on an NVIDIA H200, which saw
1.9 of the 2.9 million samples; and 35,000 samples on two cores, the only ones with noise alone and with two things
twice as often. The commands are those of the recipe, and take a budget (`--unet-minutes`).

    python -m training train
    python -m training export
    python -m training measure

{training}

## Measured

{measured}
"""

_CONTROL_CARD = """---
license: ofl-1.1
library_name: diffusers
---

# demo-sd15-canny

A ControlNet of 2.6 million weights for `demo-sd15` (the class is ControlNetModel, made by `from_unet`). It reads Canny
edges (OpenCV, thresholds 100 and 200) as a picture of 0 and 255 in three channels, and makes the drawing follow them.

Data and licence as `demo-sd15`: glyphs of Noto Color Emoji, SIL Open Font License 1.1.

Recipe: `training/`, stage `controlnet`; the UNet's weights stay as they are, 30 % of the sentences are left out.

{training}

## Measured

{measured}
"""


def text_card(folder: Path) -> str:
    """The card of demo-sd15."""
    return _TEXT_CARD.format(
        world=world(), training=training(folder), measured=adherence(folder, "measure"), guidance=GUIDANCE
    )


def control_card(folder: Path) -> str:
    """The card of demo-sd15-canny."""
    return _CONTROL_CARD.format(training=training(folder), measured=_canny(folder / CANNY))


def _canny(path: Path) -> str:
    found = read(path)
    if not found:
        return "Not yet: run `python -m training measure --canny`."
    return (
        f"On {found['prompts']} scenes that training never saw ({found['steps']} steps, guidance {found['guidance']}, "
        f"seed {found['seed']}), Canny edges of\nthe picture against the control edges, F1: {found['f1']:.3f} on the "
        f"mean and {found['f1_lowest_tenth']:.3f} at the lowest tenth\nwhere an edge matches within "
        f"{found['tolerance']} pixel, {found['f1_exact']:.3f} on the mean where it must match exactly."
    )
