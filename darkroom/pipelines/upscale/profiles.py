"""Sizes that compiled engines of this family take: tiles, whose usual size is that of a full one with its padding.

Images smaller than a tile go in one piece, down to a single pixel. A request that asks for tiles of more than 512
pixels asks for more than these engines take.
"""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.pipelines.upscale.settings import TILE, TILE_PAD
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass

_PADDING = 2 * TILE_PAD
_TILE = Range(minimum=1, optimum=TILE + _PADDING, maximum=512 + _PADDING)
_SIZES = EngineSizes(
    axes={"image": (Axis(name="height"), Axis(name="width"), None)},
    classes=(SizeClass(name="tiles", batch=2, ranges={"height": _TILE, "width": _TILE}),),
)

SIZES: Mapping[str, EngineSizes] = {network.model_name: _SIZES for network in NETWORKS}
