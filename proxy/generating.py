"""Text to image for whoever asks: `POST /generate` and durable tasks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darkroom.errors import NetworkError, NotFound
from darkroom.images import MEDIA_TYPES
from darkroom.networks import Array
from darkroom.pipelines.sd15.networks import PIPELINE
from darkroom.pipelines.sd15.request import GenerateRequest
from proxy.generate_fields import PICTURE_FIELDS, TEXT_FIELDS, validated
from proxy.services import Services
from proxy.streams import data_url
from proxy.uploads import take_picture

Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A validated request.

    :param control_image: the reference picture's bytes; only its header has been looked at.
    """

    request: GenerateRequest
    control_image: bytes | None

    @property
    def media_type(self) -> str:
        """Of the pictures."""
        return MEDIA_TYPES[self.request.format]

    def inputs(self) -> dict[str, Any]:
        """The inputs of the Triton model; None is an input that is left out."""
        request, control = self.request, self.request.control
        inputs: dict[str, Any] = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "seed": np.array([request.seed], np.int64),
            "width": request.width,
            "height": request.height,
            "num_images": request.num_images,
            "scheduler": request.scheduler,
            "preview_every": request.preview_every,
            "format": request.format,
            "quality": request.quality,
        }
        if control is not None and self.control_image is not None:
            inputs |= {
                "control_type": control.kind,
                "control_image": np.frombuffer(self.control_image, np.uint8),
                "low_threshold": control.options.low_threshold,
                "high_threshold": control.options.high_threshold,
                "controlnet_conditioning_scale": control.conditioning_scale,
                "control_guidance_start": control.start,
                "control_guidance_end": control.end,
            }
        return inputs


@dataclass(kw_only=True)
class Made:
    """What came of a job: pictures with their details, in order, and what the ControlNet read."""

    media_type: str
    pictures: list[tuple[memoryview, dict[str, Any]]] = field(default_factory=list)
    control_map: memoryview | None = None

    def take(self, outputs: Outputs) -> None:
        """Keep what one response of the model has."""
        if "control_map" in outputs:
            self.control_map = outputs["control_map"].data
        if "image" in outputs:
            self.pictures.append((outputs["image"].data, json.loads(outputs["details"][0])))

    def summary(self) -> dict[str, Any]:
        """The answer without its pictures."""
        details = [details for _, details in self.pictures]
        return {
            "success": True,
            "seed": details[0]["seed"],
            "seeds": [one["seed"] for one in details],
            "parameters": details[0],
            "width": details[0]["width"],
            "height": details[0]["height"],
            "media_type": self.media_type,
        }

    def as_json(self) -> bytes:
        """The whole answer. Encodes a lot of base64: call it in a thread."""
        answer = {**self.summary(), "images": [data_url(data, self.media_type) for data, _ in self.pictures]}
        if self.control_map is not None:
            answer["control_map"] = data_url(self.control_map, MEDIA_TYPES["png"])
        return json.dumps(answer).encode()


async def take_fields(fields: dict[str, Any], *, max_mb: float) -> tuple[dict[str, Any], tuple[str, bytes] | None]:
    """The fields of a request by our names, ready for `GenerateRequest.parse`, and the reference picture with the name
    that it came under. It is taken out of `fields`.

    :raises InvalidInput, TooLarge, RequestValidationError: a field of a wrong type; a picture that is none.
    """
    picture = await take_picture(fields, PICTURE_FIELDS, max_mb=max_mb)
    given = {name: value for name, value in fields.items() if value != "" or name in TEXT_FIELDS}
    named = validated(given).named()
    if picture is not None:
        named["control_image"] = True
    return named, picture


def require_model(services: Services) -> None:
    """:raises NotFound: Triton has no text to image model. While it is away, nobody knows."""
    if services.monitor.models and PIPELINE.name not in services.monitor.models:
        # Not 503: that promises that it will be there in a while.
        raise NotFound("This installation has no text to image model; export one: python -m exporters sd15.")


async def run(services: Services, job: Job, each: Callable[[Outputs], Awaitable[None]] | None = None) -> Made:
    """Run the model to its end; `each` is told of every response."""
    made = Made(media_type=job.media_type)
    async with aclosing(services.run_model(PIPELINE.name, job.inputs())) as responses:
        async for outputs in responses:
            made.take(outputs)
            if each is not None:
                await each(outputs)
    if len(made.pictures) != job.request.num_images:
        raise NetworkError(f"{PIPELINE.name} ended with {len(made.pictures)} of {job.request.num_images} pictures")
    return made
