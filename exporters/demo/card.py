"""The model cards of the demo checkpoints. Their numbers come from the files that training and measuring wrote."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from darkroom.files import write_atomically
from exporters.demo.glyphs import NAMES
from exporters.demo.world import BACKGROUNDS, HELD_OUT_PERCENT

TEXT = "demo-sd15"
CONTROL = "demo-sd15-canny"
HIDREAM = "demo-hidream"
ADHERENCE = "adherence.json"
CANNY = "canny.json"
FOLDERS = {"sd15": TEXT, "hidream": HIDREAM}
"""Family -> the folder of its checkpoint."""
GUIDANCE = {TEXT: 2.0, HIDREAM: 5.0}
"""The guidance scale at which a checkpoint holds most of what is asked. With no sentence these networks draw the mean
of their small world, which is further from any one scene than Stable Diffusion's is: 7.5 throws demo-sd15 off."""

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

`exporters/demo/`: the VAE on 64-pixel crops, then on whole pictures (L1, squared error, L1 of gradients, a tiny KL);
the UNet with the text encoder beside it on cached latents: velocity prediction, less weight above a
signal-to-noise ratio of 5, 10 % of the sentences left out; the rarer styles and sentences of two things are drawn twice
as often; half of the samples are noise alone, as sampling begins. Averaged weights, fp16. It wants a guidance scale of
{guidance:g}, which `generation_config.json` says to who serves it; the scale was chosen on prompts that training never
saw, some of those below among them.

These weights have a history, in which the recipe was found (docs/decisions/0013-training-the-demo-unet.md): on two
cores of a CPU, where the first 285,000 samples had the UNet predict the noise; two minutes on an NVIDIA H200, which saw
1.9 of the 2.9 million samples; and 35,000 samples on two cores, the only ones with noise alone and with two things
twice as often. The commands are those of the recipe, and take a budget (`--unet-minutes`).

    python -m exporters.demo train
    python -m exporters.demo export
    python -m exporters.demo measure

{training}

## Measured

{measured}
"""

_WORLD = """## What it understands

    a photo of a small cat on a blue background
    a cat on the left and a pizza on the right on a white background
    a drawing of an owl above a cake on a pink background
    an outline of a large rocket on a black background

{names}

Sizes: small, large, or no word. Other words are spelled out letter by letter and mean nothing to it.

## Data and licence

The pictures of training are composed of glyphs of Noto Color Emoji (Copyright 2013, 2021 Google Inc.), licensed
under the SIL Open Font License 1.1; the weights are under the same licence. Nothing else was seen. {held} of 100
combinations of glyphs and background are held out: training never saw them."""

_HIDREAM_CARD = """---
license: ofl-1.1
library_name: diffusers
pipeline_tag: text-to-image
---

# demo-hidream

A HiDream-I1 of 9.7 million weights: the real classes (`HiDreamImagePipeline` with HiDreamImageTransformer2DModel, two
CLIPTextModelWithProjection, T5EncoderModel, LlamaForCausalLM, a 16-channel AutoencoderKL,
FlowMatchEulerDiscreteScheduler, and their tokenizers) at small widths. The transformer has one block with text and
pictures apart and three with both together, each with two experts of which a token sees one. It draws 128 x 128
pictures of a small world, so that everything around such a model, from four text encoders to experts that lie on
several devices, can be run, tested and measured with no download.

diffusers' pipeline scales every picture to a megapixel unless it is told otherwise:

    pipeline = HiDreamImagePipeline.from_pretrained("checkpoints/demo-hidream")
    pipeline.default_sample_size = 16
    pipeline("a photo of a cat on a blue background", width=128, height=128)

{world}

## Limits

It was trained on pictures of 128 x 128 pixels and on their middles of 128 x 96 and 96 x 128. Pictures that are not
square have room for 64 tokens, that is 16,384 pixels in all; square ones may have any size, but it has seen only that
one. Each encoder reads 24 tokens of a sentence. A thing has one place for each layout, so that pictures of one sentence
differ little from seed to seed.

## Recipe

`exporters/demo/`: the VAE on 64-pixel crops, then on whole pictures (L1, squared error, L1 of gradients, a tiny KL);
the transformer with the four encoders beside it, from nothing, on cached latents: flow matching with timesteps shifted
towards noise as in sampling, a small loss that shares tokens out among the experts, 10 % of the sentences left out.
Averaged weights, fp16.

    python -m exporters.demo train --family hidream
    python -m exporters.demo export --family hidream
    python -m exporters.demo measure --family hidream

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

Recipe: `exporters/demo/`, stage `controlnet`; the UNet's weights stay as they are, 30 % of the sentences are left out.

{training}

## Measured

{measured}
"""


def write_cards(output: Path) -> None:
    """Write README.md of every demo checkpoint in `output`, from the JSON files beside it."""
    names = textwrap.fill(_list("things", NAMES) + " " + _list("backgrounds", tuple(BACKGROUNDS)), 118)
    world = _WORLD.format(names=names, held=HELD_OUT_PERCENT)
    for folder, card, command in (
        (output / TEXT, _TEXT_CARD, "measure"),
        (output / HIDREAM, _HIDREAM_CARD, "measure --family hidream"),
    ):
        if folder.is_dir():
            text = card.format(
                world=world,
                training=_training(folder),
                measured=_adherence(folder / ADHERENCE, command),
                guidance=GUIDANCE[folder.name],
            )
            write_atomically(folder / "README.md", text.encode())
    if (output / CONTROL).is_dir():
        measured = _canny(output / CONTROL / CANNY)
        text = _CONTROL_CARD.format(training=_training(output / CONTROL), measured=measured)
        write_atomically(output / CONTROL / "README.md", text.encode())


def _list(kind: str, words: tuple[str, ...]) -> str:
    return f"{len(words)} {kind}: {', '.join(words)}."


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _training(folder: Path) -> str:
    """What each stage spent."""
    lines = [
        f"- {stage}: {clock['step']:,} steps, {clock['samples']:,} samples, {clock['seconds'] / 60:.0f} minutes, "
        f"seed {clock['seed']}"
        for stage, clock in _read(folder / "training.json").items()
    ]
    return "\n".join(lines)


def _adherence(path: Path, command: str) -> str:
    found = _read(path)
    if not found:
        return f"Not yet: run `python -m exporters.demo {command}`."
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {good} of {count} | {good / count:.1%} |"
        for name, (good, count) in ((name, (g["holds"], g["prompts"])) for name, g in found["groups"].items())
    )
    return (
        f"Adherence: on {found['prompts']} prompts that training never saw, how many pictures hold the asked glyphs at "
        f"their places on the asked\nbackground, as a program judges that reads pictures ({found['scheduler']}, "
        f"{found['steps']} steps, guidance {found['guidance']}, seed {found['seed']},\n{found['precision']}):\n\n"
        f"| prompts | pictures that hold | rate |\n|---|---|---|\n{rows}\n\n"
        f"Backgrounds are as asked in {found['background_right']} of {found['prompts']} pictures, styles in "
        f"{found['style_right']}, number and places of the things in\n{found['places_right']}; all of it at once, and "
        f"the size, in {found['whole_scene_right']}.\n\n"
        f"The same judge reads {found['judge_rendered']:.1%} of those scenes rightly when they are rendered, and "
        f"{found['judge_vae']:.1%} after the VAE\nencoded and decoded them."
    )


def _canny(path: Path) -> str:
    found = _read(path)
    if not found:
        return "Not yet: run `python -m exporters.demo measure --canny`."
    return (
        f"On {found['prompts']} scenes that training never saw ({found['steps']} steps, guidance {found['guidance']}, "
        f"seed {found['seed']}), Canny edges of\nthe picture against the control edges, F1: {found['f1']:.3f} on the "
        f"mean and {found['f1_lowest_tenth']:.3f} at the lowest tenth\nwhere an edge matches within "
        f"{found['tolerance']} pixel, {found['f1_exact']:.3f} on the mean where it must match exactly."
    )
