"""What an upscale request may ask for: fields, ranges, defaults. No engine and no Triton here."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated

from darkroom.images import Format
from darkroom.pipelines.upscale.catalogue import DEFAULT_MODEL, UpscaleNetwork, choose, model_names
from darkroom.pipelines.upscale.settings import TILE_PAD, Settings
from darkroom.pipelines.upscale.settings import TILE_PAD_RANGE as TILE_PAD_RANGE
from darkroom.pipelines.upscale.settings import TILE_RANGE as TILE_RANGE
from darkroom.request.field import Field
from darkroom.request.fields import FORMATS as FORMATS
from darkroom.request.fields import OTHER_FORMATS
from darkroom.request.fields import QUALITY_RANGE as QUALITY_RANGE
from darkroom.request.image import QualityField
from darkroom.request.request import Request

SCALE_RANGE = (1.0, 8.0)
_UNIT = 2.5e8
"""Multiplications: so that an image costs about as much as eight units by itself, as it does in other operations."""
_CONVOLUTION = 9 * 64 * 64
_DENSE_BLOCK = 3 * 9 * (32 * (64 + 96 + 128 + 160) + 64 * 192)
"""Multiplications for a pixel: of a convolution with 64 channels, of a residual-in-residual dense block."""


class UpscaleRequest(Request):
    """One request."""

    image: Annotated[
        bytes,
        Field(
            help="The image to be enlarged, in any format.",
            aliases=("file", "image_base64"),
            needed=True,
            max_pixels="max_pixels",
            called="file",
        ),
    ] = b""
    model: Annotated[str, Field(help="The network.", words=model_names)] = DEFAULT_MODEL
    scale: Annotated[
        float | None,
        Field(
            help="How much larger, 1 to 8. By default the network's own scale, 4; where it is another one, a resize "
            "follows.",
            low=SCALE_RANGE[0],
            high=SCALE_RANGE[1],
        ),
    ] = None
    tile: Annotated[
        int | None,
        Field(
            help="Longest side of a tile in pixels, or 0 for no tiling. By default UPSCALE_TILE, or on a CPU less.",
            low=TILE_RANGE[0],
            high=TILE_RANGE[1],
            also={0: "no tiling"},
        ),
    ] = None
    tile_pad: Annotated[
        int,
        Field(
            help="Pixels around a tile that are computed twice. By default UPSCALE_TILE_PAD.",
            low=TILE_PAD_RANGE[0],
            high=TILE_PAD_RANGE[1],
            default="tile_pad",
        ),
    ] = TILE_PAD
    format: Annotated[
        Format, Field(help="Of the result; raw are bare rows.", words=FORMATS, other_words=OTHER_FORMATS)
    ] = "png"
    quality: Annotated[int, QualityField] = 90

    @cached_property
    def network(self) -> UpscaleNetwork:
        """The network that runs."""
        return choose(self.model, self.scale)

    @property
    def factor(self) -> float:
        """Output pixels per input pixel, 1..8."""
        return float(self.network.scale) if self.scale is None else self.scale

    @property
    def cost_label(self) -> str:
        return self.network.label

    def cost_units(self, width: int, height: int) -> float:
        """How much work an image of that size is, in units that images of other operations have, too."""
        network, pad = self.network, 2 * self.tile_pad
        per_pixel = _CONVOLUTION * network.blocks
        if network.architecture == "rrdb":  # the last convolutions see the enlarged image
            per_pixel = _DENSE_BLOCK * network.blocks + _CONVOLUTION * (1 + 4 + 16 + 16)
        return per_pixel * (width + pad) * (height + pad) / _UNIT


def default_tile(limits: Settings, pad: int, window: int | None) -> int:
    """The tile of a request that does not say: UPSCALE_TILE, or less where a tile with its margin would be larger than
    `window`.

    :param window: pixels; None where the device takes any.
    """
    return limits.tile if window is None else min(limits.tile, max(TILE_RANGE[0], window - 2 * pad))


def output_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Width and height of the result: rounded half up, at least 1."""
    return max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5))
