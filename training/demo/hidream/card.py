"""The card of demo-hidream."""

from __future__ import annotations

from pathlib import Path

from training.card import adherence, training, world

FOLDER = "demo-hidream"
GUIDANCE = 5.0
"""The guidance scale at which the checkpoint follows prompts best."""

_CARD = """---
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

`training/`: the VAE on 64-pixel crops, then on whole pictures (L1, squared error, L1 of gradients, a tiny KL);
the transformer with the four encoders beside it, from nothing, on cached latents: flow matching with timesteps shifted
towards noise as in sampling, a small loss that shares tokens out among the experts, 10 % of the sentences left out.
Averaged weights, fp16.

    python -m training train --family hidream
    python -m training export --family hidream
    python -m training measure --family hidream

{training}

## Measured

{measured}
"""


def card(folder: Path) -> str:
    """The card of demo-hidream."""
    return _CARD.format(
        world=world(), training=training(folder), measured=adherence(folder, "measure --family hidream")
    )
