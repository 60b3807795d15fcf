"""Upscaling as a task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ValidationError

from darkroom.errors import InvalidInput
from darkroom.images import probe, trimmed
from darkroom.pipelines.upscale.request import UpscaleRequest
from proxy import upscaling
from proxy.generate_fields import Number, Whole
from proxy.services import Services
from proxy.tasks.models import Output, Tell, Work
from proxy.uploads import take_picture

_IMAGE = "image"
_PICTURE_FIELDS = ("file", _IMAGE, "image_base64")
_MEGAPIXEL = 1e6
_OVERHEAD = 0.05
"""What every picture costs, however small, in megapixels: else icons would make photographs look slow."""


def _left_empty(value: Any) -> Any:
    return None if value == "" else value


class _Fields(BaseModel):
    """The types; ranges are checked by `UpscaleRequest.parse`."""

    model: Annotated[str | None, BeforeValidator(_left_empty)] = None
    scale: Annotated[Number | None, BeforeValidator(_left_empty)] = None
    tile: Annotated[Whole | None, BeforeValidator(_left_empty)] = None
    tile_pad: Annotated[Whole | None, BeforeValidator(_left_empty)] = None
    format: Annotated[str | None, BeforeValidator(_left_empty)] = None
    quality: Annotated[Whole | None, BeforeValidator(_left_empty)] = None


class Upscale:
    """The fields of `POST /api/upscale`; the picture as `file`, `image` or `image_base64`."""

    name = "upscale"
    fallback_seconds = 5.0

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        settings = services.settings
        upscaling.require_model(services)
        picture = await take_picture(fields, _PICTURE_FIELDS, max_mb=settings.max_upload_mb)
        if picture is None:
            raise InvalidInput("file is missing: send a picture.", param="file")
        try:
            given = _Fields.model_validate(fields).model_dump(exclude_none=True)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        request = UpscaleRequest.parse(given, settings.limits)
        header = await asyncio.to_thread(probe, picture[1], max_pixels=settings.upscale_max_pixels, param=picture[0])
        image = await asyncio.to_thread(trimmed, picture[1])  # what is kept has nothing behind the end of the image
        return Work(
            fields=given,
            files={_IMAGE: image},
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
