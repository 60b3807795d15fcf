"""Sizes that compiled engines of this family take: prompts of 16 to 218 tokens, images of 64 to 1024 pixels a side.

The encoders are timed for the 128 tokens that prompts have unless they say otherwise; the small class of the decoder
holds images of up to 512 x 512, the large one everything up to 1024 x 1024 in any shape.
"""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.networks import VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.request import SEQUENCE_RANGE, USUAL_SEQUENCE
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass

_TOKENS = Axis(name="tokens")
_PROMPT = Range(minimum=SEQUENCE_RANGE[0], optimum=USUAL_SEQUENCE, maximum=SEQUENCE_RANGE[1])
_PROMPTS = (SizeClass(name="prompts", batch=2, ranges={"tokens": _PROMPT}),)
_HEIGHT, _WIDTH = Axis(name="height", step=VAE_SCALE_FACTOR), Axis(name="width", step=VAE_SCALE_FACTOR)


def _pictures(name: str, usual: int, largest: int) -> SizeClass:
    side = Range(minimum=64, optimum=usual, maximum=largest)
    return SizeClass(name=name, batch=1, ranges={"height": side, "width": side})


SIZES: Mapping[str, EngineSizes] = {
    **{
        spec.name: EngineSizes(axes={tensor.name: (_TOKENS,) for tensor in spec.inputs}, classes=_PROMPTS)
        for spec in networks.ENCODERS
    },
    networks.VAE_DECODER.name: EngineSizes(
        axes={"latents": (None, _HEIGHT, _WIDTH)},
        classes=(_pictures("up to 512", 512, 512), _pictures("up to 1024", 1024, 1024)),
    ),
}
