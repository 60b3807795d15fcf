"""Upscaling as a task."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from darkroom.errors import InvalidInput
from darkroom.images import probe, trimmed
from darkroom.pipelines.upscale.networks import PIPELINE, UpscaleNetwork
from darkroom.pipelines.upscale.request import UpscaleRequest
from darkroom.serving.networks import ModelSpec
from proxy import upscaling
from proxy.services import Services
from proxy.tasks.models import Output, TaskContext, Work

_IMAGE = "image"
_UNIT = 2.5e8
"""Multiplications: so that an image costs about as much as eight units by itself, as it does in other operations."""
_CONVOLUTION = 9 * 64 * 64
_DENSE_BLOCK = 3 * 9 * (32 * (64 + 96 + 128 + 160) + 64 * 192)
"""Multiplications for a pixel: of a convolution with 64 channels, of a residual-in-residual dense block."""


class Upscale:
    """The fields of `POST /api/upscale`; the picture as `file`, `image` or `image_base64`."""

    name = "upscale"
    lane: ClassVar[str] = "images"
    pipeline: ClassVar[ModelSpec] = PIPELINE
    longest_turn: ClassVar[float] = 1.0  # a picture is divided into tiles
    fallback_seconds = 0.005
    names = upscaling.NAMES

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        settings = services.settings
        upscaling.require_model(services)
        given, picture = await upscaling.take_fields(fields, max_mb=settings.max_upload_mb)
        request = UpscaleRequest.parse(given, settings.limits)
        if picture is None:
            raise InvalidInput("file is missing: send a picture.", param="file")
        header = await asyncio.to_thread(probe, picture[1], max_pixels=settings.upscale_max_pixels, param=picture[0])
        image = await asyncio.to_thread(trimmed, picture[1])  # what is kept has nothing behind the end of the image
        return Work(
            fields=given,
            files={_IMAGE: image},
            steps=1,  # the tiles are counted when the picture is decoded
            kind=request.network.label,
            units=_cost(request.network) * _padded(header.width, header.height, request.tile_pad) / _UNIT,
        )

    async def run(self, context: TaskContext) -> list[Output]:
        services, emit = context.services, context.emit
        upscaling.require_model(services)
        request = UpscaleRequest.parse(context.fields, services.settings.limits)
        image = context.files[_IMAGE]
        result = await upscaling.run(services, image, request, lambda done, total: emit(done, total, None))
        return [Output(data=result.data, media_type=result.media_type, details=result.details)]


def _padded(width: int, height: int, pad: int) -> int:
    """Pixels that the network sees, of a picture in one tile; several have a little more."""
    return (width + 2 * pad) * (height + 2 * pad)


def _cost(network: UpscaleNetwork) -> float:
    """Multiplications for each pixel: by them, one network tells how long another one takes."""
    if network.architecture == "srvgg":
        return _CONVOLUTION * network.blocks
    return _DENSE_BLOCK * network.blocks + _CONVOLUTION * (1 + 4 + 16 + 16)  # the last ones see the enlarged picture
