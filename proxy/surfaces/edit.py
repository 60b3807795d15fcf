"""Editing: `POST /edit`, `/edit/json`, `/edit/multi` and `/multi-image-editing` of contract A."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from darkroom.devices import gpu_info
from darkroom.edit_modes.modes import STEPS_OF_ONE, STEPS_OF_SEVERAL
from darkroom.errors import Conflict, InvalidInput
from darkroom.request.request import Request as FieldsOfModel
from proxy.edit_answers import Edited, EditedInMode
from proxy.ignored import ignored, note
from proxy.operations.edit import IMAGES, MODE, MODE_NAMES, require_several, settled
from proxy.operations.taking import image_names, names_of, take_model
from proxy.services import Services, Use
from proxy.surfaces.generate import ImageCall, answered, image_answers, image_call
from proxy.uploads import read_fields

router = APIRouter(tags=["editing"])


@dataclass(frozen=True, kw_only=True)
class EditContract:
    """What one endpoint asks for.

    :param image: the name of the field with the images in its errors.
    :param most: images; None for as many as the installation takes.
    :param steps: of requests that do not say them; see `proxy.operations.edit`.
    :param several: whether it is for several images, so that it is refused where those are off.
    :param modes: whether it takes a mode.
    :param required: fields that every request has, besides the images.
    """

    image: str
    most: int | None = None
    steps: int
    several: bool = False
    modes: bool = False
    required: tuple[str, ...] = ("prompt",)

    async def read(self, request: Request, services: Use) -> ImageCall:
        """Read and check a request."""
        fields = await read_fields(request, max_mb=services.settings.max_upload_mb)
        model = take_model(services, "edit", fields)
        model.require(services)
        known = names_of(model) | (MODE_NAMES if self.modes else frozenset())
        warnings = ignored(fields, known)
        note(request, warnings)
        if self.several:
            require_several(services, model)
        images = image_names(IMAGES, model.family.request.fields()[IMAGES])
        self._require(fields, images)
        given = {name: value for name, value in fields.items() if name in known}
        edit = await settled(services, model, given, {"steps": self.steps})
        note(request, edit.warnings)
        more: dict[str, Any] = {"gpu_id": await _gpu_id(services)}
        if edit.mode is not None:
            more |= {"prompt": edit.fields["prompt"], "mode": edit.mode.mode} if "prompt" in edit.fields else {}
        found = [*warnings, *edit.warnings]
        more |= {"warnings": found} if found else {}
        try:
            return await image_call(request, services, model, edit.fields, more)
        except InvalidInput as error:
            raise _as_sent(error, model.family.request, given) from None

    def _require(self, fields: Mapping[str, Any], images: tuple[str, ...]) -> None:
        """:raises InvalidInput: a required field is missing, or there are too many images."""
        sent = next((fields[name] for name in images if fields.get(name) not in (None, "")), None)
        if sent is None:
            raise InvalidInput(f"{self.image} is missing: send an image.", param=self.image)
        if self.most is not None and isinstance(sent, list) and len(sent) > self.most:
            wanted = f"1 to {self.most} images" if self.most > 1 else "1 image"
            raise InvalidInput(f"{self.image} must be {wanted}; got {len(sent)}.", param=self.image)
        for name in self.required:
            if fields.get(name) is None or (name == MODE and fields[name] == ""):
                raise InvalidInput(f"{name} is missing.", param=name)


EDIT = EditContract(image="image", steps=STEPS_OF_ONE, modes=True)
EDIT_JSON = EditContract(image="image_base64", most=1, steps=STEPS_OF_ONE)
EDIT_MULTI = EditContract(image=IMAGES, most=3, steps=STEPS_OF_SEVERAL, several=True)
EDIT_IN_MODE = EditContract(image=IMAGES, steps=STEPS_OF_SEVERAL, modes=True, required=("prompt", MODE))


async def _gpu_id(services: Services) -> int | None:
    """The first GPU of the service: the steps of one edit may run on any of them."""
    gpus = await asyncio.to_thread(gpu_info, services.settings.num_gpus_to_use)
    return int(gpus[0]["gpu_id"]) if gpus else None


def _as_sent(error: InvalidInput, kind: type[FieldsOfModel], sent: Mapping[str, Any]) -> InvalidInput:
    """The error with the name of the field that the client used."""
    ours = error.param or ""
    alias = next((one for one, name in kind.aliases().items() if name == ours and sent.get(one) is not None), None)
    if alias is None or sent.get(ours) is not None:
        return error
    return type(error)(error.message.replace(ours, alias, 1), param=alias)


@router.post("/edit", summary="Change an image", response_class=Response, **image_answers(Edited, Conflict))
async def edit(request: Request, services: Use, call: Annotated[ImageCall, Depends(EDIT.read)]) -> Response:
    """Takes a form with a file, or JSON with base64. Besides the fields of contract A: `images` in place of `image`
    for several, which needs a model that reads several (else 409), `mode` with the fields that it reads, and those of
    the model. Answers and events are those of `POST /generate`."""
    return await answered(request, services, call)


@router.post(
    "/edit/json", summary="Change an image in base64", response_class=Response, **image_answers(Edited, Conflict)
)
async def edit_json(request: Request, services: Use, call: Annotated[ImageCall, Depends(EDIT_JSON.read)]) -> Response:
    """`image_base64` and the other fields of `POST /edit` as a form, or all of them as one JSON object."""
    return await answered(request, services, call)


@router.post(
    "/edit/multi", summary="Change what several images show", response_class=Response, **image_answers(Edited, Conflict)
)
async def edit_multi(request: Request, services: Use, call: Annotated[ImageCall, Depends(EDIT_MULTI.read)]) -> Response:
    """One to three `images`. 409 where USE_PLUS_PIPELINE is off or the model reads one image."""
    return await answered(request, services, call)


@router.post(
    "/multi-image-editing",
    summary="Change images in one of the modes",
    response_class=Response,
    **image_answers(EditedInMode, Conflict),
)
async def edit_in_mode(
    request: Request, services: Use, call: Annotated[ImageCall, Depends(EDIT_IN_MODE.read)]
) -> Response:
    """One to five `images`, and the `mode`, which makes the prompt that the model gets; see `GET /edit-modes`. Modes 9
    to 12 need `text_params_json`, 13 to 16 `controlnet_image`. Guidance and steps are by default the mode's. 409 for a
    mode with several images where those are off."""
    return await answered(request, services, call)
