"""What an upscale request may ask for: fields, ranges, defaults. No engine and no Triton here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.images import Format
from darkroom.pipelines.upscale.networks import DEFAULT_MODEL, UpscaleNetwork, choose
from darkroom.pipelines.upscale.settings import TILE_PAD, Settings
from darkroom.pipelines.upscale.settings import TILE_PAD_RANGE as TILE_PAD_RANGE
from darkroom.pipelines.upscale.settings import TILE_RANGE as TILE_RANGE
from darkroom.request.fields import FORMATS as FORMATS
from darkroom.request.fields import QUALITY_RANGE as QUALITY_RANGE
from darkroom.request.fields import Bounds, format_name, integer, number

SCALE_RANGE = (1.0, 8.0)
RANGES: dict[str, Bounds] = {
    "scale": SCALE_RANGE,
    "tile": TILE_RANGE,
    "tile_pad": TILE_PAD_RANGE,
    "quality": QUALITY_RANGE,
}
"""The smallest and the largest value of every number of a request, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class UpscaleRequest:
    """One request.

    :param network: the network that runs.
    :param scale: output pixels per input pixel, 1..8; where it is not the network's own, a resize ends the job.
    :param tile: longest side of a tile without its padding, 32..4096; 0 does the whole picture in one piece; None is
        what `default_tile` says.
    :param tile_pad: pixels around a tile that the network sees and that are thrown away, 0..256.
    :param format: "png", "webp", "jpeg", or "raw" (bare rows).
    :param quality: 1..100, for WebP and JPEG.
    """

    network: UpscaleNetwork
    scale: float
    tile: int | None = None
    tile_pad: int = TILE_PAD
    format: Format = "png"
    quality: int = 90

    @classmethod
    def parse(cls, fields: Mapping[str, Any], limits: Settings) -> UpscaleRequest:
        """Validate named fields; those that are absent or None take their defaults.

        :raises InvalidInput: names the field, its range and what came.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        scale = number(given, "scale", 0, SCALE_RANGE) if "scale" in given else None
        network = choose(given.get("model", DEFAULT_MODEL), scale)
        return cls(
            network=network,
            scale=network.scale if scale is None else scale,
            tile=integer(given, "tile", 0, TILE_RANGE, also={0: "no tiling"}) if "tile" in given else None,
            tile_pad=integer(given, "tile_pad", limits.tile_pad, TILE_PAD_RANGE),
            format=format_name(given, cls.format),
            quality=integer(given, "quality", cls.quality, QUALITY_RANGE),
        )


def default_tile(limits: Settings, pad: int, window: int | None) -> int:
    """The tile of a request that does not say: UPSCALE_TILE, or less where a tile with its margin would be larger than
    `window`.

    :param window: pixels; None where the device takes any.
    """
    return limits.tile if window is None else min(limits.tile, max(TILE_RANGE[0], window - 2 * pad))


def output_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Width and height of the result: rounded half up, at least 1."""
    return max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5))
