"""Text to image as a task, whatever the family, with an upscaler behind it where the pictures are to be larger."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel

from darkroom.errors import InvalidInput
from darkroom.pipelines.upscale.networks import DEFAULT_MODEL, model_names
from darkroom.pipelines.upscale.request import SCALE_RANGE, UpscaleRequest
from darkroom.request.fields import number
from darkroom.serving.networks import ModelSpec
from proxy import pictures, upscaling
from proxy.generate_fields import Number, Ranges, Text, optional, validated
from proxy.pictures import Job, Outputs
from proxy.services import Services
from proxy.tasks.models import Output, Tell, Work

ENLARGE = "enlarge"
_ENLARGE_MODEL = "enlarge_model"
ENLARGE_NAMES = frozenset({ENLARGE, _ENLARGE_MODEL})
"""The fields of every operation that makes images."""


class EnlargeFields(BaseModel):
    """How much larger the images are to be than they are made."""

    enlarge: Number | None = optional("By how much the images are enlarged when they are made.")
    enlarge_model: Text | None = optional("The upscaler that does it.", DEFAULT_MODEL, enum=list(model_names()))


class PictureOperation(ABC):
    """The fields of its family, and two more: `enlarge` (1..8), by how much the pictures are enlarged when they are
    made, and `enlarge_model`, the upscaler that does it."""

    name: str
    fallback_seconds: float
    pipeline: ClassVar[ModelSpec]
    longest_turn: ClassVar[float] = math.inf
    names: frozenset[str]
    side_multiple: ClassVar[int]
    """Width and height in pixels are multiples of it."""

    @abstractmethod
    async def take(self, services: Services, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """A request's fields by our names, of the right types, and the pictures that came with it.

        :raises DarkroomError, RequestValidationError: it is refused.
        """

    @abstractmethod
    def job(self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        """What there is to do for such fields.

        :raises DarkroomError: one of them is out of range.
        """

    @abstractmethod
    def ranges(self, services: Services) -> Ranges:
        """Of the numbers, in this installation."""

    def label(self, job: Job) -> str:
        """What makes its steps slower or faster than others of its size, for the estimates."""
        return ""

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        pictures.require_model(services, self.pipeline)
        enlarge = validated(fields, EnlargeFields, {ENLARGE: SCALE_RANGE}).model_dump()
        named, files = await self.take(services, fields)
        job = self.job(services, named, files)
        request = job.request
        kept = {name: value for name, value in named.items() if value is not None}
        kept |= {name: value for name, value in enlarge.items() if value is not None}
        larger = _upscale_request(kept, job, services)
        if larger is not None:
            kept[ENLARGE] = larger.scale
        size = f"{request.width or 'default'}x{request.height or 'default'}"
        enlarged = f"{larger.network.label} x{larger.scale:g}" if larger else ""
        return Work(
            fields={**kept, "seed": request.seed},
            files=files,
            steps=request.steps + (request.num_images if larger else 0),
            kind=" ".join(part for part in (size, self.label(job), enlarged) if part),
            units=request.steps * request.num_images * (2 if request.guided else 1),
            pictures=request.num_images,
        )

    async def run(
        self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes], tell: Tell
    ) -> list[Output]:
        pictures.require_model(services, self.pipeline)
        job = self.job(services, fields, files)
        larger = _upscale_request(fields, job, services)
        if larger is not None:  # the upscaler decodes what it gets: nothing is lost on the way
            job = replace(job, request=replace(job.request, format="png"))
        afterwards = job.request.num_images if larger else 0
        steps = job.request.steps

        async def each(outputs: Outputs) -> None:
            nonlocal steps
            done, steps = (int(n) for n in outputs["progress"])
            preview = outputs.get("preview")
            tell(done, steps + afterwards, None if preview is None else preview.tobytes())

        made = await pictures.run(services, job, each)
        outputs = [Output(data=data, media_type=made.media_type, details=details) for data, details in made.pictures]
        if larger is None:
            return outputs
        for index, output in enumerate(outputs):
            done = steps + index
            report = partial(_tell_tiles, tell, done, steps + afterwards)
            result = await upscaling.run(services, bytes(output.data), larger, report)
            details = {**output.details, ENLARGE: larger.scale, _ENLARGE_MODEL: result.details["model"]}
            outputs[index] = Output(data=result.data, media_type=result.media_type, details=details)
            tell(done + 1, steps + afterwards, None)
        return outputs


def _tell_tiles(tell: Tell, done: int, steps: int, tile: int, tiles: int) -> None:
    """Tiles are no steps of the task, but they show that it lives."""
    tell(done, steps, None)


def _upscale_request(fields: Mapping[str, Any], job: Job, services: Services) -> UpscaleRequest | None:
    """How the pictures are enlarged; None when they are not.

    :raises InvalidInput: `enlarge` is out of range, or there is no such upscaler.
    """
    if ENLARGE not in fields:
        if _ENLARGE_MODEL in fields:
            raise InvalidInput(f"{ENLARGE} is missing: {_ENLARGE_MODEL} is for pictures to be enlarged.", param=ENLARGE)
        return None
    upscaling.require_model(services)
    wanted = {
        "scale": number(fields, ENLARGE, 1, SCALE_RANGE),
        "format": job.request.format,
        "quality": job.request.quality,
        "model": fields.get(_ENLARGE_MODEL),
    }
    try:
        return UpscaleRequest.parse(wanted, services.settings.limits)
    except InvalidInput as error:
        if error.param != "model":
            raise
        raise InvalidInput(error.message.replace("model", _ENLARGE_MODEL, 1), param=_ENLARGE_MODEL) from None
