"""Text to image as a task, with an upscaler behind it where the pictures are to be larger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.images import probe
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.upscale.request import SCALE_RANGE, UpscaleRequest
from proxy import generating, upscaling
from proxy.generating import Job, Outputs
from proxy.services import Services
from proxy.tasks.models import Output, Tell, Work

_CONTROL_IMAGE = "control_image"
_ENLARGE = "enlarge"
_ENLARGE_MODEL = "enlarge_model"


class Generate:
    """The fields of `POST /generate`, and two more: `enlarge` (1..8), by how much the pictures are enlarged when they
    are made, and `enlarge_model`, the upscaler that does it."""

    name = "generate"
    fallback_seconds = 0.1

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        settings = services.settings
        generating.require_model(services)
        enlarge = {name: fields.pop(name, None) for name in (_ENLARGE, _ENLARGE_MODEL)}
        named, picture = await generating.take_fields(fields, max_mb=settings.max_upload_mb)
        request = GenerateRequest.parse(named, settings.generate_limits)
        if picture is not None:
            probe(picture[1], max_pixels=settings.generate_max_control_pixels, param=picture[0])
        kept = {name: value for name, value in named.items() if value is not None}
        kept |= {name: value for name, value in enlarge.items() if value not in (None, "")}
        larger = _upscale_request(kept, request, services)
        size = f"{request.width or 'default'}x{request.height or 'default'}"
        return Work(
            fields={**kept, "seed": request.seed},
            files={} if picture is None else {_CONTROL_IMAGE: picture[1]},
            steps=request.steps + (request.num_images if larger else 0),
            kind=f"{size}{' controlled' if request.control else ''}{f' x{larger.scale:g}' if larger else ''}",
            units=request.steps * request.num_images * (2 if request.guided else 1),
        )

    async def run(
        self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes], tell: Tell
    ) -> list[Output]:
        generating.require_model(services)
        request = GenerateRequest.parse(fields, services.settings.generate_limits)
        larger = _upscale_request(fields, request, services)
        # The upscaler decodes what it gets: nothing is lost on the way.
        job = Job(
            request=replace(request, format="png") if larger else request, control_image=files.get(_CONTROL_IMAGE)
        )
        afterwards = request.num_images if larger else 0
        steps = request.steps

        async def each(outputs: Outputs) -> None:
            nonlocal steps
            done, steps = (int(n) for n in outputs["progress"])
            preview = outputs.get("preview")
            tell(done, steps + afterwards, None if preview is None else preview.tobytes())

        made = await generating.run(services, job, each)
        outputs = [Output(data=data, media_type=made.media_type, details=details) for data, details in made.pictures]
        if larger is None:
            return outputs
        for index, output in enumerate(outputs):
            result = await upscaling.run(services, bytes(output.data), larger)
            details = {**output.details, _ENLARGE: larger.scale, _ENLARGE_MODEL: result.details["model"]}
            outputs[index] = Output(data=result.data, media_type=result.media_type, details=details)
            tell(steps + index + 1, steps + afterwards, None)
        return outputs


def _upscale_request(fields: Mapping[str, Any], request: GenerateRequest, services: Services) -> UpscaleRequest | None:
    """How the pictures are enlarged; None when they are not.

    :raises InvalidInput: `enlarge` is out of range, or there is no such upscaler.
    """
    if _ENLARGE not in fields:
        if _ENLARGE_MODEL in fields:
            raise InvalidInput(
                f"{_ENLARGE} is missing: {_ENLARGE_MODEL} is for pictures to be enlarged.", param=_ENLARGE
            )
        return None
    upscaling.require_model(services)
    scale = _number(fields[_ENLARGE])
    wanted = {"scale": scale, "format": request.format, "quality": request.quality}
    model = fields.get(_ENLARGE_MODEL)
    return UpscaleRequest.parse(wanted | ({"model": str(model)} if model else {}), services.settings.limits)


def _number(value: Any) -> float:
    low, high = SCALE_RANGE
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number) or not low <= number <= high:
        came = repr(value)[:80]
        raise InvalidInput(f"{_ENLARGE} must be a number from {low:g} to {high:g}; got {came}.", param=_ENLARGE)
    return number
