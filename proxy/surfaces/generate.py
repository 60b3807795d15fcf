"""Text to image: contract C."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from darkroom.errors import DarkroomError
from darkroom.images import MEDIA_TYPES
from proxy.answers import Answer, Generated
from proxy.documented import IMAGE, WORK, answers
from proxy.http.accept import Accept, accept_of
from proxy.ignored import ignored, note
from proxy.models import ServedModel
from proxy.operations.images import ImageJob, Outputs, run
from proxy.operations.taking import names_of, take, take_model
from proxy.policy.judging import merged
from proxy.services import Services, Use, while_connected
from proxy.streams import EVENT_STREAM, EventResponse, SendEvent, data_url, event, wants_events
from proxy.uploads import read_fields

router = APIRouter(tags=["text to image"])

_JSON = "application/json"
_ANY_IMAGE = "image/*"
_IMAGES = {MEDIA_TYPES[name]: name for name in ("png", "webp", "jpeg")}


@dataclass(frozen=True, kw_only=True)
class ImageCall:
    """A request for images and the form of its answer.

    :param bare: answer the image itself.
    :param more: what to add to an answer in JSON.
    """

    job: ImageJob
    bare: bool
    more: dict[str, Any]


async def _read_call(request: Request, services: Use) -> ImageCall:
    fields = await read_fields(request, max_mb=services.settings.max_upload_mb)
    model = take_model(services, "generate", fields)
    warnings = note(request, ignored(fields, names_of(model)))
    return await image_call(request, services, model, fields, warnings)


async def image_call(
    request: Request, services: Services, model: ServedModel, fields: dict[str, Any], more: dict[str, Any]
) -> ImageCall:
    """Check a request for images of a model, and what its `Accept` asks for.

    :param fields: of the model; others are ignored.
    :param more: what to add to an answer in JSON.
    :raises DarkroomError, RequestValidationError, HTTPException: the request is refused.
    """
    accepted, events = _preferred_answer(accept_of(request)), wants_events(request, _JSON, *_IMAGES)
    settled: dict[str, Any] = {}
    asked = str(fields.get("format") or "").lower()
    if accepted in _IMAGES and asked in ("", _IMAGES[accepted]):
        settled["format"] = _IMAGES[accepted]
    taken = await take(services, model, fields, **settled)
    parsed, more = taken.request, merged(more, taken.warnings)
    if not events:  # nothing reads progress and previews, and every message costs time
        parsed = parsed.with_values(progress_every=0, preview_every=0)
    job = ImageJob.of(model, parsed)
    if accepted in _IMAGES:
        _require_one(job.request.format == _IMAGES[accepted], f"format is {job.request.format}", accepted)
    bare = accepted != _JSON and not events
    _require_one(not bare or job.request.num_images == 1, f"num_images is {job.request.num_images}", accepted)
    return ImageCall(job=job, bare=bare, more=more)


def image_answers(model: type[Answer], *raises: type[DarkroomError]) -> dict[str, Any]:
    """What a route's decorator says of the answers that `answered` gives.

    :param model: of an answer in JSON.
    :param raises: errors besides those of every request for images.
    """
    return answers(
        model,
        raises=(*IMAGE, *WORK, *raises),
        media=(EVENT_STREAM, *_IMAGES),
        headers=("X-Seed",),
        other={406: "`not_acceptable`: Several images, and `Accept` names a kind of answer that holds one."},
    )


def _preferred_answer(accept: Accept) -> str:
    """Return the media type of the answer by `Accept`: JSON, an image type, or any image type; else JSON."""
    best = accept.best((_JSON, *_IMAGES))
    if best == _JSON:
        return _JSON
    return best if accept.names(best) else _ANY_IMAGE


def _require_one(fits: bool, but: str, accepted: str) -> None:
    if not fits:
        raise HTTPException(
            406, f"Accept: {accepted} answers one such image, and {but}; ask for {_JSON} or {EVENT_STREAM}."
        )


@router.post(
    "/generate",
    summary="Make images of a text",
    response_class=Response,
    **image_answers(Generated),
)
async def generate(request: Request, services: Use, call: Annotated[ImageCall, Depends(_read_call)]) -> Response:
    """Takes JSON or a form. Answers JSON: `images` as data URLs, `seed`, `seeds`, `parameters`, and with a reference
    image the `control_map` that was made of it. With `Accept: image/png` (webp, jpeg) and one image it answers the
    image itself, and its seed in `X-Seed`.

    With `Accept: text/event-stream` it answers events: `loading` if the model has to be loaded first, `progress` with
    the finished and all steps, `control` with the control map, `preview`, `image` for each image when it is ready, then
    `done` with the rest of the answer, or `error`."""
    return await answered(request, services, call)


async def answered(request: Request, services: Services, call: ImageCall) -> Response:
    """Run the model and answer in the form that was asked for; see `generate`."""
    call.job.model.require_ready(services)
    if wants_events(request, _JSON, *_IMAGES):
        await services.check(call.job.model.name)
        return EventResponse(partial(_stream_events, services, call))
    made = await while_connected(request, services.admitted(partial(run, services, call.job), call.job.model.name))
    if call.bare:
        ((data, details),) = made.images
        return Response(data, media_type=made.media_type, headers={"X-Seed": str(details["seed"])})
    return Response(await asyncio.to_thread(made.as_json, call.more), media_type=_JSON)


async def _stream_events(services: Services, call: ImageCall, send: SendEvent) -> None:
    """Send the events of a job."""

    async def on_response(outputs: Outputs) -> None:
        for one in await asyncio.to_thread(_events_of, outputs, call.job.media_type):
            send(one)

    if services.is_swapped_out(call.job.model.name):
        send(event("loading", {"model": call.job.model.name}))
    made = await services.admitted(lambda: run(services, call.job, on_response), call.job.model.name)
    send(event("done", {**made.summary(), **call.more}))


def _events_of(outputs: Outputs, media_type: str) -> list[bytes]:
    """Encode one response of the model as events."""
    if "image" in outputs:
        details = json.loads(outputs["details"][0])
        image = data_url(outputs["image"].data, media_type)
        return [event("image", {"index": details["index"], "image": image, "seed": details["seed"]})]
    done, total = (int(n) for n in outputs["progress"])
    events = [event("progress", {"done": done, "total": total})]
    if "control_map" in outputs:
        events.append(event("control", {"control_map": data_url(outputs["control_map"].data, MEDIA_TYPES["png"])}))
    if "preview" in outputs:
        image = data_url(outputs["preview"].data, MEDIA_TYPES["png"])
        events.append(event("preview", {"image": image, "done": done, "total": total}))
    return events
