"""Text to image with SD 1.5 as a task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from darkroom.images import probe, trimmed
from darkroom.pipelines.sd15.networks import PIPELINE, VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GenerateRequest, ranges
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from proxy import generating, pictures
from proxy.generate_fields import GENERATE_NAMES, Ranges
from proxy.generating import Job
from proxy.operations.pictures import ENLARGE_NAMES, PictureOperation
from proxy.services import Services

_CONTROL_IMAGE = "control_image"


class Generate(PictureOperation):
    """The fields of `POST /generate`, and those of every `PictureOperation`."""

    name = "generate"
    fallback_seconds = 0.1
    pipeline = PIPELINE
    side_multiple = VAE_SCALE_FACTOR
    names = GENERATE_NAMES | ENLARGE_NAMES

    async def take(self, services: Services, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        limits = Sd15Settings.of(services.settings)
        named, picture = await generating.take_fields(fields, limits, max_mb=services.settings.max_upload_mb)
        if picture is None:
            return named, {}
        probe(picture[1], max_pixels=limits.max_control_pixels, param=picture[0])
        # What is kept has nothing behind the end of the image.
        return named, {_CONTROL_IMAGE: await asyncio.to_thread(trimmed, picture[1])}

    def ranges(self, services: Services) -> Ranges:
        return ranges(Sd15Settings.of(services.settings))

    def job(self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        request = GenerateRequest.parse(fields, Sd15Settings.of(services.settings))
        return Job(request=request, control_image=files.get(_CONTROL_IMAGE))

    def label(self, job: pictures.Job) -> str:
        return "controlled" if isinstance(job, Job) and job.request.control else ""
