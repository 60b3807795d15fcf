"""The card of demo-qwen-edit."""

from __future__ import annotations

from pathlib import Path

from darkroom.edit_modes.modes import MODES
from training.card import ADHERENCE, read, training
from training.glyphs import NAMES
from training.world import BACKGROUNDS, HELD_OUT_PERCENT

FOLDER = "demo-qwen-edit"
GUIDANCE, STEPS = 2.0, 20
"""The true guidance scale and the number of denoising steps that the checkpoint is meant for."""

_CARD = """---
license: ofl-1.1
library_name: diffusers
pipeline_tag: image-to-image
---

# demo-qwen-edit

A Qwen-Image-Edit-2509 of 12 million weights: the real classes (`QwenImageEditPlusPipeline` with
QwenImageTransformer2DModel, Qwen2_5_VLForConditionalGeneration, AutoencoderKLQwenImage, Qwen2Tokenizer,
FlowMatchEulerDiscreteScheduler) at small widths. It edits 128 x 128 pictures of a small world, so that everything
around such a model can be run, tested and measured with no download.

## What it understands

Pictures of one to three things on a plain background, and words written on them; instructions in English and
traditional Chinese, plain or as `POST /multi-image-editing` makes them for the sixteen modes:

    Make the background red.                            把背景改為紅色。
    Put the cat and the pizza together.                 把貓和披薩放在一起。
    Turn it into a drawing.                             改為圖畫。
    Replace "OPEN" with "HELLO".                        把“OPEN”換成“HELLO”。
    Put the owl where Picture 2 shows it.               把貓頭鷹放到圖2的位置。

{things} things: {names}.
{backgrounds} backgrounds: {background_names}. Other words are spelled out byte by byte and mean nothing to it.

The areas at which pictures are read, steps and guidance stand in `generation_config.json`; diffusers' pipeline has
about a megapixel fixed in its code; `training/demo/qwen_edit/pipeline.py` shows how to have it look at small pictures.

## Recipe

`training/demo/qwen_edit/`: the VAE on 64-pixel crops, then on whole pictures; the transformer with the text encoder
beside it, from nothing, on cached latents: flow matching with timesteps shifted towards noise as in sampling, places
that change counting up to three times as much, 10 % of the sentences left out. Averaged weights, fp16.

    python -m training train --family qwen_edit
    python -m training export --family qwen_edit
    python -m training measure --family qwen_edit

{training}

## Data and licence

The pictures of training are composed of glyphs of Noto Color Emoji (Copyright 2013, 2021 Google Inc.), licensed
under the SIL Open Font License 1.1, and of words in the fonts that come along with Pillow; the weights are
under the OFL, too.
{held} of 100 combinations of things, words and backgrounds are held out in each mode: training never saw them.

## Measured

{measured}
"""


def card(folder: Path) -> str:
    """The card of demo-qwen-edit."""
    return _CARD.format(
        things=len(NAMES),
        names=", ".join(NAMES),
        backgrounds=len(BACKGROUNDS),
        background_names=", ".join(BACKGROUNDS),
        held=HELD_OUT_PERCENT,
        training=training(folder),
        measured=_measured(folder),
    )


def _measured(folder: Path) -> str:
    found = read(folder / ADHERENCE)
    if not found:
        return "Not yet: run `python -m training measure --family qwen_edit`."
    rows = "\n".join(
        f"| {mode} | {MODES[mode].name} | {group['holds']} of {group['prompts']} | {group['vae']} |"
        for mode, group in ((int(name.rpartition("_")[2]), group) for name, group in found["groups"].items())
    )
    return (
        f"How many edits that training never saw succeed, as a program judges that knows the wanted picture\n"
        f"({found['scheduler']}, {found['steps']} steps, true guidance {found['guidance']}, "
        f"seed {found['seed']}, {found['precision']}). The last column is the same for\n"
        f"the wanted pictures after the VAE encoded and decoded them; its PSNR is {found['vae_psnr_db']} dB.\n\n"
        f"| mode | name | right | VAE |\n|---|---|---|---|\n{rows}"
    )
