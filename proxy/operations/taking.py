"""Reads and validates a request for a model: types, aliases of fields, images."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.family import Operation
from darkroom.images import Header, probe
from darkroom.request.edge import edge_model, named, rest_names, texts
from darkroom.request.field import Field, resolved
from darkroom.request.loras import FIELD as LORAS
from darkroom.request.request import Request
from proxy.audit.notes import note_request
from proxy.keys.ledger import note_images
from proxy.metrics.current import note_work
from proxy.models import ServedModel, choose_model, of_operation
from proxy.policy.judging import Warnings, judge_request
from proxy.services import Services
from proxy.uploads import place_of, take_image, take_images
from proxy.validation import validated

MODEL = "model"
"""The name of the field that names the model."""


@dataclass(frozen=True, kw_only=True)
class TakenImage:
    """An image of a request.

    :param name: the field in which it was sent.
    """

    name: str
    data: bytes
    header: Header


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A validated request and the values that it was made of.

    :param values: the given values by the names of the fields, as types that JSON has.
    :param images: by the names of the fields; those of a field with several by its name and their number.
    :param count: how many images the whole request makes.
    :param warnings: what the content policy has changed, for the `warnings` of the answer.
    """

    model: ServedModel
    request: Request
    values: dict[str, Any]
    images: dict[str, TakenImage]
    count: int
    warnings: Warnings = dataclass_field(default_factory=list)


def names_of(model: ServedModel) -> frozenset[str]:
    """Return all field names that a request for a model may have."""
    return rest_names(model.family.request) | {MODEL}


def take_model(services: Services, operation: Operation, fields: dict[str, Any]) -> ServedModel:
    """Return the model of a request. Its name is removed from `fields`, unless the family itself has such a field.

    :raises InvalidInput, NotFound: there is no such model.
    """
    if any(MODEL in family.request.fields() for family in of_operation(operation)):
        return choose_model(services, operation, None)
    return choose_model(services, operation, fields.pop(MODEL, None))


async def take(
    services: Services,
    model: ServedModel,
    fields: dict[str, Any],
    *,
    judge: bool = True,
    whole: int | None = None,
    **settled: Any,
) -> Taken:
    """Read and validate a request, and judge it by the content policy. Its images are removed from `fields`; only
    their headers are read.

    :param judge: False for what is part of a task that was judged when it was accepted.
    :param whole: the images of the whole request, where this is the first of several jobs of it.
    :param settled: values that the endpoint sets; they take precedence over what was sent.
    :raises DarkroomError, RequestValidationError: the request is refused, by the policy with ModerationBlocked.
    """
    kind, limits = model.family.request, model.limits(services)
    note_work(model.family.operation, model.name)
    _refuse_fields_of_others(model, fields)
    sent_images = await _take_sent(services, kind, fields, limits)
    values = named(kind, validated(fields, edge_model(kind), kind.ranges(limits), texts(kind)).model_dump())
    values |= settled
    values = await services.loras.settled(services, model, values)
    # Before the request is made, because an image may decide the size of the result.
    images = {}
    for name, (sent_as, content) in sent_images.items():
        most = resolved(kind.fields()[_field_of(name)].max_pixels, limits)
        header = await asyncio.to_thread(probe, content, max_pixels=most, param=sent_as)
        images[name] = TakenImage(name=sent_as, data=content, header=header)
    sent = [image.data for image in images.values()]
    await note_request(model.family.operation, model.name, values, sent)
    data = whole_fields(kind, {name: image.data for name, image in images.items()})

    async def parsed() -> Request:
        parse = partial(model.parse, services, {**values, **data})
        return await asyncio.to_thread(parse) if images else parse()

    request = await parsed()
    for name in kind.image_fields():
        about = kind.fields()[name]
        if about.needed and name not in sent_images:
            called = about.called or name
            raise InvalidInput(f"{called} is missing: send an image.", param=called)
    warnings: Warnings = []
    if judge:
        headers = [image.header for image in images.values()]
        changes = await judge_request(services, model, request, headers, whole)
        warnings, whole = changes.warnings, changes.num_images or whole
        if changes.values:
            values |= changes.values
            request = await parsed()
    count = getattr(request, "num_images", 1) if whole is None else whole
    note_images(count)
    return Taken(model=model, request=request, values=values, images=images, count=count, warnings=warnings)


async def _take_sent(
    services: Services, kind: type[Request], fields: dict[str, Any], limits: Any
) -> dict[str, tuple[str, bytes]]:
    """Remove the images of a request from `fields`; return the name that each was sent under and its bytes, by the
    names of `Taken.images`."""
    max_mb, sent = services.settings.max_upload_mb, {}
    for name in kind.image_fields():
        found = await take_image(fields, image_names(name, kind.fields()[name]), max_mb=max_mb)
        if found is not None:
            sent[name] = found
    for name in kind.image_list_fields():
        about = kind.fields()[name]
        bounds = about.bounds(limits)
        most = int(bounds[1]) if bounds else 1
        several = await take_images(fields, image_names(name, about), max_mb=max_mb, most=most)
        if several is not None:
            sent_as, images = several
            for index, image in enumerate(images):
                sent[f"{name}{_NUMBER}{index}"] = place_of(sent_as, index, len(images)), image
    return sent


_NUMBER = "__"
"""Between the name of a field with several images and the number of one."""


def _field_of(name: str) -> str:
    return name.partition(_NUMBER)[0]


def _number_of(name: str) -> int:
    return int(name.partition(_NUMBER)[2])


def whole_fields(kind: type[Request], images: Mapping[str, bytes]) -> dict[str, Any]:
    """Return images by the names of `Taken.images` as the values of fields, in which several are a tuple."""
    found: dict[str, Any] = {name: image for name, image in images.items() if name in kind.image_fields()}
    for field in kind.image_list_fields():
        names = sorted((name for name in images if _field_of(name) == field), key=_number_of)
        if names:
            found[field] = tuple(images[name] for name in names)
    return found


def image_names(name: str, about: Field) -> tuple[str, ...]:
    """Return the names of an image field; the first one is used in errors."""
    names = (name, *about.aliases)
    return (about.called, *(one for one in names if one != about.called)) if about.called else names


def _refuse_fields_of_others(model: ServedModel, fields: dict[str, Any]) -> None:
    """Refuse images and LoRAs for other families: if they were ignored, the answer would not be what the client
    means."""
    mine = names_of(model)
    for family in of_operation(model.family.operation):
        loras = [LORAS] if family.lora_reader is not None else []
        for name in [*family.request.image_fields(), *family.request.image_list_fields(), *loras]:
            for one in (name, *family.request.fields()[name].aliases):
                if one not in mine and fields.get(one) not in (None, "", []):
                    raise InvalidInput(
                        f"{one} is not a field of the model {model.name}; {family.name} has it.", param=one
                    )
