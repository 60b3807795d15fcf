"""Pictures of a text, for whoever asks: what the jobs of every family have in common."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from darkroom.errors import NetworkError, NotFound
from darkroom.images import MEDIA_TYPES
from darkroom.request.fields import PictureRequest
from darkroom.serving.networks import Array, ModelSpec
from proxy.services import Services
from proxy.streams import data_url

Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A validated request, and the pipeline that it is for."""

    pipeline: ClassVar[ModelSpec]
    request: PictureRequest

    @property
    def media_type(self) -> str:
        """Of the pictures."""
        return MEDIA_TYPES[self.request.format]

    def inputs(self) -> dict[str, Any]:
        """The inputs of the Triton model; None is an input that is left out."""
        request = self.request
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "seed": np.array([request.seed], np.int64),
            "width": request.width,
            "height": request.height,
            "num_images": request.num_images,
            "scheduler": request.scheduler,
            "progress_every": request.progress_every,
            "preview_every": request.preview_every,
            "format": request.format,
            "quality": request.quality,
        }


@dataclass(kw_only=True)
class Made:
    """What came of a job: pictures with their details, in order, and what a ControlNet read."""

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

    def as_json(self, more: Mapping[str, Any]) -> bytes:
        """The whole answer, and `more` in it. Encodes a lot of base64: call it in a thread."""
        answer = {**self.summary(), **more, "images": [data_url(data, self.media_type) for data, _ in self.pictures]}
        if self.control_map is not None:
            answer["control_map"] = data_url(self.control_map, MEDIA_TYPES["png"])
        return json.dumps(answer).encode()


def require_model(services: Services, pipeline: ModelSpec) -> None:
    """:raises NotFound: Triton does not have it. While it is away, nobody knows."""
    services.require_chosen(pipeline.name)
    if services.monitor.models and pipeline.name not in services.monitor.models:
        # Not 503: that promises that it will be there in a while.
        raise NotFound(
            f"This installation has no text to image model {pipeline.name}; export one: "
            f"python -m exporters {pipeline.name}."
        )


async def run(services: Services, job: Job, each: Callable[[Outputs], Awaitable[None]] | None = None) -> Made:
    """Run the model to its end; `each` is told of every response."""
    made, name = Made(media_type=job.media_type), job.pipeline.name
    async with aclosing(services.run_model(name, job.inputs())) as responses:
        async for outputs in responses:
            made.take(outputs)
            if each is not None:
                await each(outputs)
    if len(made.pictures) != job.request.num_images:
        raise NetworkError(f"{name} ended with {len(made.pictures)} of {job.request.num_images} pictures")
    return made
