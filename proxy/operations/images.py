"""Runs a model that makes images of a text, for direct requests and tasks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from darkroom.diffusion.image_check import FLAGGED
from darkroom.errors import LoraMissing, NetworkError, NotReady
from darkroom.images import MEDIA_TYPES
from darkroom.request.image import ImageRequest
from darkroom.request.loras import MOST_LORAS
from darkroom.request.request import Request
from darkroom.request.tensors import to_tensors
from darkroom.serving.networks import Array
from proxy.audit.notes import note_flagged, note_results
from proxy.metrics.current import note_preview
from proxy.models import ServedModel
from proxy.services import Services
from proxy.streams import data_url

Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """A validated request for images, and its model."""

    model: ServedModel
    request: ImageRequest

    @classmethod
    def of(cls, model: ServedModel, request: Request) -> ImageJob:
        """Make the job for a request of a family that generates."""
        return cls(model=model, request=cast(ImageRequest, request))

    @property
    def media_type(self) -> str:
        """The media type of the images."""
        return MEDIA_TYPES[self.request.format]


@dataclass(kw_only=True)
class GeneratedImages:
    """The results of a job: images with their details, in order, and the control map that the ControlNet read."""

    media_type: str
    images: list[tuple[memoryview, dict[str, Any]]] = field(default_factory=list)
    control_map: memoryview | None = None

    def take(self, outputs: Outputs) -> None:
        """Store the outputs of one response of the model."""
        if "control_map" in outputs:
            self.control_map = outputs["control_map"].data
        if "image" in outputs:
            self.images.append((outputs["image"].data, json.loads(outputs["details"][0])))

    def summary(self) -> dict[str, Any]:
        """Return the answer without its images."""
        details = [details for _, details in self.images]
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
        """Return the whole answer with the fields of `more`. It encodes a lot of base64, so call it in a thread."""
        answer = {**self.summary(), **more, "images": [data_url(data, self.media_type) for data, _ in self.images]}
        if self.control_map is not None:
            answer["control_map"] = data_url(self.control_map, MEDIA_TYPES["png"])
        return json.dumps(answer).encode()


async def run(
    services: Services,
    job: ImageJob,
    on_response: Callable[[Outputs], Awaitable[None]] | None = None,
    *,
    results: bool = True,
) -> GeneratedImages:
    """Run the model to its end; `on_response` gets every response. LoRA files that the model lacks are sent to it. A
    direct request of which no image is made yet begins once more if its Triton ends and there is another one.

    :param results: whether the images are results. What is only made into another image is neither signed nor noted.
    :raises DarkroomError: the error of the model, or NotReady while Triton is unavailable.
    """
    sent, began_again = 0, False
    while True:
        made = GeneratedImages(media_type=job.media_type)
        try:
            await _run(services, job, made, on_response, results)
        except LoraMissing as error:  # the server of the networks is another one now, or has deleted it
            if sent == MOST_LORAS:
                raise
            sent += 1
            await services.loras.send(services, job.model, error.digest)
        except NotReady:
            if began_again or made.images or not services.may_begin_again(job.model.name):
                raise
            began_again = True
        else:
            return made


async def _run(
    services: Services,
    job: ImageJob,
    made: GeneratedImages,
    on_response: Callable[[Outputs], Awaitable[None]] | None,
    results: bool,
) -> None:
    name = job.model.name
    async with aclosing(services.run_model(name, to_tensors(job.request))) as responses:
        async for outputs in responses:
            if results and "image" in outputs:
                image = await services.signed(outputs["image"].data, job.media_type, name, job.request)
                outputs = {**outputs, "image": np.frombuffer(image, np.uint8)}
                await note_results([image])
            if "preview" in outputs:
                note_preview()
            made.take(outputs)
            if "image" in outputs and FLAGGED in made.images[-1][1]:
                note_flagged()
            if on_response is not None:
                await on_response(outputs)
    if len(made.images) != job.request.num_images:
        raise NetworkError(f"{name} ended with {len(made.images)} of {job.request.num_images} images")
    if services.measures is not None:
        services.measures.made(job.model.family.operation, name, len(made.images))
