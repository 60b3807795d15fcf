"""Upscaling for whoever asks: `POST /api/upscale`, batches and durable tasks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel

from darkroom.errors import NetworkError, NotFound
from darkroom.images import MEDIA_TYPES
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale.request import FORMATS, RANGES, UpscaleRequest
from darkroom.request.fields import OTHER_FORMATS
from darkroom.serving.networks import Array
from proxy.generate_fields import Number, Text, Whole, optional, validated, word
from proxy.services import Services
from proxy.streams import data_url
from proxy.uploads import take_picture

PICTURE_FIELDS = ("file", "image", "image_base64")
"""Names of the image to be enlarged; the first one is ours."""

Report = Callable[[int, int], None]


class UpscaleFields(BaseModel):
    """The types; ranges are checked by `UpscaleRequest.parse`."""

    model: Text | None = optional("The network.", networks.DEFAULT_MODEL, enum=list(networks.model_names()))
    scale: Number | None = optional("How much larger. By default the network's own scale, 4.")
    tile: Whole | None = optional("Longest side of a tile in pixels, or 0 for no tiling. By default UPSCALE_TILE.")
    tile_pad: Whole | None = optional("Pixels around a tile that are computed twice. By default UPSCALE_TILE_PAD.")
    format: Annotated[Text, word("format", FORMATS, OTHER_FORMATS)] | None = optional(
        "Of the result; raw are bare rows.", UpscaleRequest.format, enum=list(FORMATS)
    )
    quality: Whole | None = optional("Of WebP and JPEG.", UpscaleRequest.quality)


NAMES = frozenset({*UpscaleFields.model_fields, *PICTURE_FIELDS})
"""Every field of a request for one image."""


async def take_fields(fields: dict[str, Any], *, max_mb: float) -> tuple[dict[str, Any], tuple[str, bytes] | None]:
    """The fields of a request, ready for `UpscaleRequest.parse`, and the image with the name that it came under. It is
    taken out of `fields`.

    :raises InvalidInput, TooLarge, RequestValidationError: a field of a wrong type; an image that is none.
    """
    picture = await take_picture(fields, PICTURE_FIELDS, max_mb=max_mb)
    return validated(fields, UpscaleFields, RANGES).model_dump(exclude_none=True), picture


def _silent(done: int, total: int) -> None:
    """For callers that do not show progress."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished picture: its bytes (not copied out of the message they came in) and what was done."""

    data: memoryview
    media_type: str
    details: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        """What was done, for clients that want to know."""
        headers = {"X-Upscale-Model": self.details["model"], "X-Upscale-Scale": f"{self.details['scale']:g}"}
        dropped = self.details.get("dropped_metadata")
        return headers | ({"X-Dropped-Metadata": ", ".join(dropped)} if dropped else {})

    def as_json(self) -> dict[str, Any]:
        """The picture as a data URL, and what was done. Encodes a lot of base64: call it in a thread."""
        return {"image": data_url(self.data, self.media_type), "media_type": self.media_type, **self.details}


def require_model(services: Services) -> None:
    """:raises NotFound: Triton has no upscaler. While it is away, nobody knows."""
    services.require_chosen(networks.PIPELINE.name)
    if services.monitor.models and networks.PIPELINE.name not in services.monitor.models:
        raise NotFound("This installation has no upscaler; export one: python -m exporters prepare.")


def require_ready(services: Services) -> None:
    """:raises NotFound, NotReady: Triton has no upscaler; it does not work now."""
    require_model(services)
    services.monitor.require(networks.PIPELINE.name)


async def run(services: Services, data: bytes, options: UpscaleRequest, report: Report = _silent) -> Result:
    """Run the model on an encoded picture; `report` is told the tiles done and in all.

    :raises DarkroomError: the error of the model, or NotReady when Triton is away.
    """
    result: Result | None = None
    async with aclosing(_responses(services, data, options)) as responses:
        async for outputs in responses:
            done, total = (int(n) for n in outputs["progress"])
            report(done, total)
            if "upscaled" in outputs:
                details = json.loads(outputs["details"][0])
                result = Result(data=outputs["upscaled"].data, media_type=MEDIA_TYPES[options.format], details=details)
    if result is None:
        raise NetworkError("the upscale model ended without a picture")
    return result


def _responses(services: Services, data: bytes, options: UpscaleRequest) -> AsyncGenerator[dict[str, Array], None]:
    inputs = {
        "image": np.frombuffer(data, np.uint8),
        "model": options.network.label,
        "scale": float(options.scale),
        "tile": options.tile,
        "tile_pad": options.tile_pad,
        "format": options.format,
        "quality": options.quality,
    }
    return services.run_model(networks.PIPELINE.name, inputs)
