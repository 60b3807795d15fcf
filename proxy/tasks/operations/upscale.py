"""Upscaling as a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.images import probe
from darkroom.pipelines.upscale.request import UpscaleRequest
from proxy import upscaling
from proxy.services import Services
from proxy.tasks.models import Output, Tell, Work

_IMAGE = "image"
_MEGAPIXEL = 1e6
_OVERHEAD = 0.05
"""What every picture costs, however small, in megapixels: else icons would make photographs look slow."""


class Upscale:
    """The fields of `POST /api/upscale`; the picture as `file`, `image` or `image_base64`."""

    name = "upscale"
    names = upscaling.NAMES
    fallback_seconds = 5.0

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        settings = services.settings
        upscaling.require_model(services)
        given, picture = await upscaling.take_fields(fields, max_mb=settings.max_upload_mb)
        request = UpscaleRequest.parse(given, settings.limits)
        if picture is None:
            raise InvalidInput("file is missing: send a picture.", param="file")
        header = probe(picture[1], max_pixels=settings.upscale_max_pixels, param=picture[0])
        return Work(
            fields=given,
            files={_IMAGE: picture[1]},
            steps=1,  # the tiles are counted when the picture is decoded
            kind=request.network.label,
            units=_OVERHEAD + header.width * header.height / _MEGAPIXEL,
        )

    async def run(
        self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes], tell: Tell
    ) -> list[Output]:
        upscaling.require_model(services)
        request = UpscaleRequest.parse(fields, services.settings.limits)
        result = await upscaling.run(services, files[_IMAGE], request, lambda done, total: tell(done, total, None))
        return [Output(data=result.data, media_type=result.media_type, details=result.details)]
