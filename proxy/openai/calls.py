"""Reads and checks a request of OpenAI's images API: its jobs, and the form of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fastapi import Request

from darkroom.edit_modes.modes import STEPS_OF_ONE, STEPS_OF_SEVERAL
from darkroom.errors import Conflict, DarkroomError, InvalidInput
from darkroom.family import Operation
from darkroom.images import upright_size
from darkroom.request.field import resolved
from proxy.ignored import ignored, note
from proxy.models import ServedModel
from proxy.openai.fields import OF_OTHERS, RANGES, ImagesFields, StreamFields, as_sent
from proxy.openai.names import always_in_base64, chosen_model, usually_by_url
from proxy.openai.sizes import possible_size, read_size
from proxy.openai.usage import InputTokens, text_tokens
from proxy.openai.usage import image_tokens as image_tokens_of
from proxy.operations.edit import IMAGES, MODE_NAMES, reads_several, settled
from proxy.operations.images import ImageJob
from proxy.operations.taking import MODEL, names_of, take
from proxy.policy.judging import Warnings, merged
from proxy.services import Services
from proxy.uploads import IMAGE_FIELDS, read_fields, take_images
from proxy.validation import validated

Event = Literal["image_generation", "image_edit"]
Error = TypeVar("Error", bound=DarkroomError)

IMAGE_NAMES = ("image", "image[]", "images")
"""The names of the images to be changed; a form may have each several times."""
MOST_INPUTS = 16
"""Images of a request, as with OpenAI; the model's own limit may be lower."""
_INIT, _MASK, _STRENGTH, _PROMPT = "init_image", "mask", "strength", "prompt"
VARIATION_STRENGTH = 0.6
_SMALLEST_QUALITY = 1


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What one endpoint takes.

    :param event: the beginning of the names of its events.
    :param operations: of the models that it can use, the preferred one first.
    :param changes: whether it changes images.
    :param strength: of image to image where the request does not say it; None for the model's own.
    :param prompt: where the request has none; None where it has to have one.
    """

    event: Event
    operations: tuple[Operation, ...]
    fields: type[ImagesFields]
    changes: bool = True
    strength: float | None = None
    prompt: str | None = None


GENERATIONS = Endpoint(event="image_generation", operations=("generate",), fields=StreamFields, changes=False)
EDITS = Endpoint(event="image_edit", operations=("edit", "generate"), fields=StreamFields)
VARIATIONS = Endpoint(
    event="image_edit", operations=("generate",), fields=ImagesFields, strength=VARIATION_STRENGTH, prompt=""
)


@dataclass(frozen=True, kw_only=True)
class ImagesCall:
    """A checked request.

    :param jobs: one after the other; several where the model makes fewer images at a time than were asked for.
    :param partial_images: of a stream, None for an answer that is none.
    :param by_url: whether images are answered as URLs.
    :param quality: what was sent, which has no effect.
    :param more: what to add to the answer: warnings.
    """

    event: Event
    jobs: tuple[ImageJob, ...]
    partial_images: int | None
    by_url: bool
    quality: str | None
    tokens: InputTokens
    more: Mapping[str, Any]

    @property
    def model(self) -> ServedModel:
        """The model of all jobs."""
        return self.jobs[0].model


async def read_body(request: Request, services: Services, endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields of a body, the images to be changed as a list.

    :raises DarkroomError, Refused: it cannot be read.
    """
    max_mb = services.settings.max_upload_mb
    if not endpoint.changes:
        return await read_fields(request, max_mb=max_mb)
    return await read_fields(
        request,
        max_mb=max_mb,
        images=(*IMAGE_FIELDS, *IMAGE_NAMES),
        lists=IMAGE_NAMES,
        max_files=MOST_INPUTS + 2,  # a mask and a control image
    )


async def checked_call(request: Request, services: Services, endpoint: Endpoint, fields: dict[str, Any]) -> ImagesCall:
    """Check a request.

    :param fields: as `read_body` returns them; they are changed.
    :raises DarkroomError, RequestValidationError: the request is refused.
    """
    wanted = validated(fields, endpoint.fields, RANGES)
    for name, bounds in RANGES.items():
        value = getattr(wanted, name, None)
        if value is not None and not bounds[0] <= value <= bounds[1]:
            raise InvalidInput(f"{name} must be from {bounds[0]} to {bounds[1]}; got {value}.", param=name)
    named = fields.pop(MODEL, None)
    model = chosen_model(services, endpoint.operations, named)
    model.require(services)
    given = {name: value for name, value in fields.items() if name not in endpoint.fields.model_fields}
    images = await _images(services, model, endpoint, given)
    try:
        warnings = ignored(given, _known_names(model))
        note(request, warnings)
        given, others = await _for_model(services, model, endpoint, _known(model, given), images)
        note(request, others)
        given |= _size(services, model, wanted, given)
        jobs, judged = await _jobs(services, model, wanted, given)
    except Conflict as error:  # which OpenAI's clients would send again
        raise _renamed(InvalidInput(error.message, param=error.param)) from None
    except InvalidInput as error:
        raise _renamed(error) from None
    return ImagesCall(
        event=endpoint.event,
        jobs=_reporting(jobs, wanted),
        partial_images=(getattr(wanted, "partial_images", None) or 0) if getattr(wanted, "stream", None) else None,
        by_url=_by_url(named, wanted.response_format),
        quality=wanted.quality,
        tokens=_tokens(services, jobs[0], images),
        more=merged({}, [*warnings, *others, *judged]),
    )


def _by_url(model: object, wanted: str | None) -> bool:
    if always_in_base64(model):
        return False
    return usually_by_url(model) if wanted is None else wanted == "url"


def _renamed(error: InvalidInput) -> InvalidInput:
    """The error with the names of fields that this API has."""
    param, message = as_sent(error.param, error.message)
    return error if param == error.param else type(error)(message, param=param)


async def _images(services: Services, model: ServedModel, endpoint: Endpoint, given: dict[str, Any]) -> list[bytes]:
    """Remove the images to be changed from `given`, and return them.

    :raises InvalidInput: there are none, or more than the model reads.
    """
    if not endpoint.changes:
        return []
    sent: list[Any] = []
    for name in IMAGE_NAMES:
        value = given.pop(name, None)
        sent += value if isinstance(value, list) else [] if value in (None, "") else [value]
    if not sent:
        raise InvalidInput("image is missing: send an image.", param="image")
    fields = model.family.request.fields()
    if IMAGES not in fields and _INIT not in fields:
        raise InvalidInput(f"The model {model.name} cannot change images.", param=MODEL)
    if len(sent) > 1 and (IMAGES not in fields or not reads_several(services, model)):
        raise InvalidInput(
            f"image: {model.name} reads one image; got {len(sent)}. Several need a model for editing that reads them.",
            param="image",
        )
    limits = model.limits(services)
    bounds = fields[IMAGES].bounds(limits) if IMAGES in fields else None
    most = min(MOST_INPUTS, int(bounds[1]) if bounds else 1)
    found = await take_images({"image": sent}, ["image"], max_mb=services.settings.max_upload_mb, most=most)
    assert found is not None, "there are some"
    return found[1]


def _known_names(model: ServedModel) -> frozenset[str]:
    modes = MODE_NAMES if model.family.operation == "edit" else frozenset()
    return (names_of(model) | modes) - OF_OTHERS


def _known(model: ServedModel, given: Mapping[str, Any]) -> dict[str, Any]:
    known = _known_names(model)
    return {name: value for name, value in given.items() if name in known}


async def _for_model(
    services: Services, model: ServedModel, endpoint: Endpoint, given: dict[str, Any], images: list[bytes]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fields of the model, with the images under the name that it has for them; and warnings."""
    if endpoint.prompt is not None:
        given = {_PROMPT: endpoint.prompt, **given}
    if not images:
        return given, []
    if model.family.operation == "edit":
        steps = STEPS_OF_SEVERAL if len(images) > 1 else STEPS_OF_ONE
        edit = await settled(services, model, {**given, IMAGES: images}, {"steps": steps})
        return edit.fields, edit.warnings
    names = (_STRENGTH, *model.family.request.fields()[_STRENGTH].aliases)
    if endpoint.strength is not None and all(given.get(name) in (None, "") for name in names):
        given[_STRENGTH] = endpoint.strength
    return {**given, _INIT: images[0]}, []


def _size(services: Services, model: ServedModel, wanted: ImagesFields, given: Mapping[str, Any]) -> dict[str, Any]:
    """Width and height, where the request names a size. One that names them as fields of the model means these. An
    edit with a mask is as large as its image."""
    asked = read_size(wanted.size)
    if asked is None:
        return {}
    if any(given.get(name) not in (None, "") for name in ("width", "height")):
        return {"size": f"{asked[0]}x{asked[1]}"}  # which have to be the same
    if model.family.operation == "edit" and given.get(_MASK) not in (None, ""):
        return _strict_only(wanted, asked)
    width, height = possible_size(services, model, asked, strict=bool(wanted.strict_size))
    return {"width": width, "height": height}


def _strict_only(wanted: ImagesFields, asked: tuple[int, int]) -> dict[str, Any]:
    """Where the image decides the size: the model refuses another one if that is what the request wants."""
    return {"width": asked[0], "height": asked[1]} if wanted.strict_size else {}


async def _jobs(
    services: Services, model: ServedModel, wanted: ImagesFields, given: dict[str, Any]
) -> tuple[tuple[ImageJob, ...], Warnings]:
    """The jobs of a request, and warnings of what the content policy changed. Job after job its images have the next
    seeds."""
    bounds = model.family.request.fields()["num_images"].bounds(model.limits(services))
    most, count = int(bounds[1]) if bounds else 1, wanted.n or 1
    more: dict[str, Any] = {"num_images": min(count, most), "format": wanted.output_format or "png"}
    if wanted.output_compression is not None:
        more["quality"] = max(_SMALLEST_QUALITY, wanted.output_compression)
    taken = await take(services, model, given, whole=count, **more)
    first = ImageJob.of(model, taken.request)
    sizes = [(at, min(most, taken.count - at)) for at in range(0, taken.count, most)]
    jobs = tuple(
        ImageJob.of(model, first.request.with_values(seed=first.request.seed + at, num_images=number))
        for at, number in sizes
    )
    return jobs, taken.warnings


def _reporting(jobs: tuple[ImageJob, ...], wanted: ImagesFields) -> tuple[ImageJob, ...]:
    """The jobs with the previews that a stream needs. Nothing else is reported: every message costs time."""
    partial = (getattr(wanted, "partial_images", None) or 0) if getattr(wanted, "stream", None) else 0
    every = max(1, jobs[0].request.steps_left // (partial + 1)) if partial else 0
    return tuple(ImageJob.of(job.model, job.request.with_values(progress_every=0, preview_every=every)) for job in jobs)


def _tokens(services: Services, job: ImageJob, images: list[bytes]) -> InputTokens:
    """The tokens of the prompt and of the images that came."""
    fields, limits = job.model.family.request.fields(), job.model.limits(services)
    about = fields.get(IMAGES) or fields.get(_INIT)
    most = resolved(about.max_pixels, limits) if about is not None else 0
    sizes = [upright_size(image, max_pixels=most) for image in images]
    return InputTokens(text=text_tokens(job.request.prompt, job.request.negative_prompt), image=image_tokens_of(sizes))
