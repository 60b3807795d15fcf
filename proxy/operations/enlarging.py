"""Enlarges the finished images of a task: the fields `enlarge` and `enlarge_model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, create_model

from darkroom.errors import InvalidInput
from darkroom.request.edge import Number, Text, optional
from darkroom.request.fields import Bounds
from darkroom.request.request import Request
from proxy.models import ServedModel, default_model, of_operation
from proxy.operations import upscaling
from proxy.operations.images import ImageJob
from proxy.policy.judging import Warnings, facts_of, judged, lowered
from proxy.services import Services

ENLARGE = "enlarge"
ENLARGE_MODEL = "enlarge_model"
ENLARGE_NAMES = frozenset({ENLARGE, ENLARGE_MODEL})
"""The fields of every operation that makes images."""


@dataclass(frozen=True, kw_only=True)
class Enlarging:
    """How images are enlarged.

    :param request: without an image.
    """

    model: ServedModel
    request: Request

    @property
    def scale(self) -> float:
        """Output pixels per input pixel."""
        return float(getattr(self.request, "scale"))  # noqa: B009  # every family that upscales has it

    @property
    def label(self) -> str:
        """For the queue estimates."""
        return f"{self.request.cost_label} x{self.scale:g}"


def _upscaler() -> type[Request]:
    return of_operation("upscale")[0].request


def enlarge_fields() -> type[BaseModel]:
    """The fields with their types."""
    about = _upscaler().fields()["model"]
    usual = _upscaler().model_fields["model"].default
    fields: dict[str, Any] = {
        ENLARGE: (Number | None, optional("By how much the images are enlarged when they are made.")),
        ENLARGE_MODEL: (
            Text | None,
            optional("The upscaler that does it.", usual, enum=list(about.allowed_words())),
        ),
    }
    return create_model("EnlargeFields", **fields)


def enlarge_ranges() -> dict[str, Bounds]:
    """The smallest and the largest value of `enlarge`."""
    return {ENLARGE: _upscaler().ranges(None)["scale"]}


def enlarging(services: Services, fields: Mapping[str, Any], job: ImageJob) -> Enlarging | None:
    """Return how the images of a job are enlarged; None if they are not.

    :raises InvalidInput: `enlarge` is out of range, or there is no such upscaler.
    """
    if fields.get(ENLARGE) is None:
        if fields.get(ENLARGE_MODEL) is not None:
            raise InvalidInput(f"{ENLARGE} is missing: {ENLARGE_MODEL} is for images to be enlarged.", param=ENLARGE)
        return None
    model = default_model(services, "upscale")
    model.require(services)
    wanted = {
        "scale": fields[ENLARGE],
        "format": job.request.format,
        "quality": job.request.quality,
        "model": fields.get(ENLARGE_MODEL),
    }
    try:
        return Enlarging(model=model, request=model.parse(services, wanted))
    except InvalidInput as error:
        raise _by_our_name(error) from None


async def judged_enlarging(services: Services, how: Enlarging, job: ImageJob) -> tuple[Enlarging, Warnings]:
    """Judge by the content policy, as an upscaling, how the images of a job are enlarged.

    :returns: how they are enlarged then, and warnings of what was lowered.
    :raises ModerationBlocked: a rule refuses it.
    """
    if services.policy is None:
        return how, []
    size = job.model.completed(services, job.request)
    known = {name: round((getattr(size, name, None) or 0) * how.scale) for name in ("width", "height")}
    name = str(getattr(how.request, "model", how.model.name))
    facts = facts_of("upscale", name, **known, scale=how.scale, num_images=job.request.num_images)
    cuts = [cut for cut in (await judged(services, facts)).cuts if cut.name == "scale"]
    for cut in cuts:
        how = replace(how, request=how.request.with_values(scale=cut.after))
    return how, [lowered(cut, ENLARGE) for cut in cuts]


def _by_our_name(error: InvalidInput) -> InvalidInput:
    ours = {"scale": ENLARGE, "model": ENLARGE_MODEL}.get(error.param or "")
    if ours is None:
        return error
    return type(error)(error.message.replace(error.param or "", ours, 1), param=ours)


async def enlarge(services: Services, how: Enlarging, image: bytes, emit: upscaling.Report) -> upscaling.Upscaled:
    """Enlarge one image; `emit` receives the number of finished tiles and of all tiles."""
    request = how.request.with_values(image=image)
    return await upscaling.run(services, how.model, request, emit)
