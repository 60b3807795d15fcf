"""Sizes that compiled engines of this family take: images of 16 to 2048 pixels a side.

References have about a megapixel in any proportions, and results are as large as what was sent, down to a token.
"""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.checkpoint import SIDE_MULTIPLE, VAE_SCALE_FACTOR
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass

_SIDE = Range(minimum=SIDE_MULTIPLE, optimum=1024, maximum=2048)
_CLASSES = (SizeClass(name="up to 2048", batch=1, ranges={"height": _SIDE, "width": _SIDE}),)
_PIXELS = (Axis(name="height"), Axis(name="width"), None)
_LATENTS = (None, Axis(name="height", step=VAE_SCALE_FACTOR), Axis(name="width", step=VAE_SCALE_FACTOR))

SIZES: Mapping[str, EngineSizes] = {
    networks.VAE_ENCODER.name: EngineSizes(axes={"image": _PIXELS}, classes=_CLASSES),
    networks.VAE_DECODER.name: EngineSizes(axes={"latents": _LATENTS}, classes=_CLASSES),
}
