"""Runs a model that enlarges an image, for direct requests, batches and tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from darkroom.errors import NetworkError, NotReady
from darkroom.images import MEDIA_TYPES
from darkroom.request.request import Request
from darkroom.request.tensors import to_tensors
from proxy.audit.notes import note_results
from proxy.models import ServedModel
from proxy.services import Services
from proxy.streams import data_url

Report = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """For callers that do not show progress."""


@dataclass(frozen=True, kw_only=True)
class Upscaled:
    """A finished image: its bytes (without a copy out of the received message) and the details."""

    data: memoryview
    media_type: str
    details: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        """The details of the result."""
        headers = {"X-Upscale-Model": self.details["model"], "X-Upscale-Scale": f"{self.details['scale']:g}"}
        dropped = self.details.get("dropped_metadata")
        return headers | ({"X-Dropped-Metadata": ", ".join(dropped)} if dropped else {})

    def as_json(self) -> dict[str, Any]:
        """Return the image as a data URL, with the details. It encodes a lot of base64, so call it in a thread."""
        return {"image": data_url(self.data, self.media_type), "media_type": self.media_type, **self.details}


async def run(services: Services, model: ServedModel, request: Request, report: Report = _silent) -> Upscaled:
    """Run the model on the image of a request; `report` receives the number of finished tiles and of all tiles.

    A direct request begins once more if its Triton ends and there is another one.

    :raises DarkroomError: the error of the model, or NotReady while Triton is unavailable.
    """
    try:
        result = await _run(services, model, request, report)
    except NotReady:
        if not services.may_begin_again(model.name):
            raise
        result = await _run(services, model, request, report)
    await note_results([result.data])
    return result


async def _run(services: Services, model: ServedModel, request: Request, report: Report) -> Upscaled:
    result: Upscaled | None = None
    media_type = MEDIA_TYPES[getattr(request, "format")]  # noqa: B009  # every family that upscales has it
    async with aclosing(services.run_model(model.name, to_tensors(request))) as responses:
        async for outputs in responses:
            done, total = (int(n) for n in outputs["progress"])
            report(done, total)
            if "upscaled" in outputs:
                details = json.loads(outputs["details"][0])
                image = await services.signed(outputs["upscaled"].data, media_type, details["model"], request)
                result = Upscaled(data=memoryview(image), media_type=media_type, details=details)
    if result is None:
        raise NetworkError(f"{model.name} ended without an image")
    if services.measures is not None:
        services.measures.made(model.family.operation, model.name, 1)
    return result
