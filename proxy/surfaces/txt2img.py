"""Images of a text with a base and a refiner: `POST /txt2img` of contract E."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator

from darkroom.errors import InvalidInput, NotFound
from darkroom.request.edge import Text, optional
from darkroom.request.loras import FIELD as LORAS
from darkroom.request.loras import parse_loras
from proxy.answers import Txt2img
from proxy.documented import IMAGE, WORK, answers
from proxy.ignored import ignored, note
from proxy.models import ServedModel, default_model, installed
from proxy.operations.images import GeneratedImages, ImageJob, run
from proxy.operations.taking import MODEL, names_of, take, take_model
from proxy.policy.judging import merged
from proxy.services import Services, Use, while_connected
from proxy.sessions.fields import number_as_text
from proxy.uploads import read_fields
from proxy.validation import validated

router = APIRouter(tags=["text to image"])

_PREFERRED = "sdxl"
"""The model that this contract is of."""


class LoraFields(BaseModel):
    """The fields of this contract that are no fields of a model."""

    use_lora: bool | None = optional("Whether the newest LoRA of the session changes the base.", False)
    session_id: Annotated[Text, BeforeValidator(number_as_text)] | None = optional(
        "The session of the LoRA; a text, or a number in JSON."
    )


SESSION = "session_id"
LORA_NAMES = frozenset(LoraFields.model_fields)
ELSEWHERE = frozenset({"format", "quality", "preview_every"})
"""Fields of the models that this contract does not have: its answers are PNGs, and all at once."""


def preferred_model(services: Services) -> ServedModel:
    """The model of requests that name none: the contract's own where it is installed, else the usual default."""
    there = (model for model in installed(services, "generate") if model.name == _PREFERRED)
    return next(there, None) or default_model(services, "generate")


async def _job(request: Request, services: Use) -> tuple[ImageJob, dict[str, Any]]:
    """The checked request, and what to add to its answer."""
    fields = await read_fields(request, max_mb=services.settings.max_upload_mb)
    lora = validated(fields, LoraFields)
    fields = {name: value for name, value in fields.items() if name not in LORA_NAMES}
    model = take_model(services, "generate", fields) if fields.get(MODEL) else preferred_model(services)
    warnings = note(request, ignored(fields, names_of(model) - ELSEWHERE))
    known = {name: value for name, value in fields.items() if name not in {MODEL, *ELSEWHERE}}
    known |= _session_lora(lora, known)
    try:
        taken = await take(services, model, known)
    except (InvalidInput, NotFound) as error:
        place = f"{LORAS}[{len(known.get(LORAS) or ()) - 1}].session_id"
        if not lora.use_lora or error.param != place:
            raise
        raise type(error)(error.message.replace(place, SESSION), param=SESSION) from None  # as the client sent it
    parsed = taken.request.with_values(progress_every=0, preview_every=0)
    return ImageJob.of(model, parsed), merged(warnings, taken.warnings)


def _session_lora(wanted: LoraFields, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The field `loras` where `use_lora` adds one to it.

    :raises InvalidInput: no session is named.
    """
    if not wanted.use_lora:
        return {}
    if wanted.session_id is None:
        raise InvalidInput("session_id is missing: use_lora takes the newest LoRA of a session.", param=SESSION)
    return {
        LORAS: [*(one.to_json() for one in parse_loras(fields.get(LORAS) or ())), {"session_id": wanted.session_id}]
    }


@router.post(
    "/txt2img",
    summary="Make images of a text with a base and a refiner",
    response_class=Response,
    **answers(Txt2img, raises=(*IMAGE, *WORK)),
)
async def txt2img(
    services: Use, request: Request, wanted: Annotated[tuple[ImageJob, dict[str, Any]], Depends(_job)]
) -> Response:
    """Takes JSON or a form, with the fields of `POST /generate` for the same model. Answers PNGs in base64, without a
    data URL around them."""
    job, warnings = wanted
    job.model.require_ready(services)
    made = await while_connected(request, services.admitted(partial(run, services, job), job.model.name))
    return Response(await asyncio.to_thread(_encoded, made, warnings), media_type="application/json")


def _encoded(made: GeneratedImages, warnings: dict[str, Any]) -> bytes:
    """The answer. Encodes a lot of base64: call it in a thread."""
    details = [one for _, one in made.images]
    images = [base64.b64encode(data).decode() for data, _ in made.images]
    return json.dumps(
        {
            "images_base64": images,
            "seed": details[0]["seed"],
            "seeds": [one["seed"] for one in details],
            "parameters": details[0],
            **warnings,
        }
    ).encode()
