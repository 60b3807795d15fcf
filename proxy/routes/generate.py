"""Text to image: contract C."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from darkroom.errors import NetworkError, NotFound
from darkroom.images import MEDIA_TYPES, probe
from darkroom.networks import Array
from darkroom.pipelines.sd15.networks import PIPELINE
from darkroom.pipelines.sd15.request import GenerateRequest
from proxy.generate_fields import PICTURE_FIELDS, TEXT_FIELDS, request_body, validated
from proxy.services import Services, Use, while_connected
from proxy.streams import EVENT_STREAM, EventResponse, Tell, data_url, event, wants_events
from proxy.uploads import read_fields, take_picture

router = APIRouter(tags=["text to image"])

_JSON = "application/json"
_ANY_PICTURE = "image/*"
_PICTURES = {MEDIA_TYPES[name]: name for name in ("png", "webp", "jpeg")}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {name: {} for name in (_JSON, EVENT_STREAM, *_PICTURES)}},
    406: {"description": "Several pictures, and `Accept` names a kind of answer that holds one."},
}

Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A validated request.

    :param control_image: the reference picture's bytes; only its header has been looked at.
    :param bare: answer the picture itself.
    """

    request: GenerateRequest
    control_image: bytes | None
    bare: bool

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


async def _job(request: Request, services: Use) -> Job:
    settings = services.settings
    fields = await read_fields(request, max_mb=settings.max_upload_mb)
    picture = await take_picture(fields, PICTURE_FIELDS, max_mb=settings.max_upload_mb)
    given = {name: value for name, value in fields.items() if value != "" or name in TEXT_FIELDS}
    named = validated(given).named()
    if picture is not None:
        named["control_image"] = True
    accepted = _accepted(request.headers.get("accept", ""))
    if accepted in _PICTURES:
        _require_one(named["format"] in (None, _PICTURES[accepted]), f"format is {named['format']}", accepted)
        named["format"] = _PICTURES[accepted]
    parsed = GenerateRequest.parse(named, settings.generate_limits)
    events = wants_events(request)
    if not events:
        parsed = replace(parsed, preview_every=0)  # nobody would see them
    bare = accepted != _JSON and not events
    _require_one(not bare or parsed.num_images == 1, f"num_images is {parsed.num_images}", accepted)
    if picture is not None:
        probe(picture[1], max_pixels=settings.generate_max_control_pixels, param=picture[0])
    return Job(request=parsed, control_image=None if picture is None else picture[1], bare=bare)


def _accepted(accept: str) -> str:
    """What the client likes best of what there is: JSON, a kind of picture, or any picture. JSON if it has no wish."""
    wishes = []
    for wish in accept.lower().split(","):
        name, *parameters = (part.strip() for part in wish.split(";"))
        quality = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        wishes.append((name, float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0))
    for name, weight in sorted(wishes, key=lambda wish: -wish[1]):
        if weight and (name in _PICTURES or name == _ANY_PICTURE):
            return name
        if weight and name in (_JSON, "application/*", "*/*"):
            return _JSON
    return _JSON


def _require_one(fits: bool, but: str, accepted: str) -> None:
    if not fits:
        raise HTTPException(
            406, f"Accept: {accepted} answers one such picture, and {but}; ask for {_JSON} or {EVENT_STREAM}."
        )


@router.post(
    "/generate",
    summary="Make pictures of a text",
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra={"requestBody": request_body()},
)
async def generate(request: Request, services: Use, job: Annotated[Job, Depends(_job)]) -> Response:
    """Takes JSON or a form. Answers JSON: `images` as data URLs, `seed`, `seeds`, `parameters`, and with a reference
    picture the `control_map` that was made of it. With `Accept: image/png` (webp, jpeg) and one picture it answers
    the picture itself, and its seed in `X-Seed`.

    With `Accept: text/event-stream` it answers events: `progress` with the steps done and in all, `control` with
    the control map, `preview`, `image` for each picture when it is ready, then `done` with the rest of the answer, or
    `error`."""
    services.monitor.require()
    if PIPELINE.name not in services.monitor.models:
        # Not 503: that promises that it will be there in a while.
        raise NotFound("This installation has no text to image model; export one: python -m exporters sd15.")
    if wants_events(request):
        services.gate.check()
        return EventResponse(partial(_narrated, services, job))
    made = await while_connected(request, services.admitted(partial(_run, services, job)))
    if job.bare:
        ((data, details),) = made.pictures
        return Response(data, media_type=made.media_type, headers={"X-Seed": str(details["seed"])})
    return Response(await asyncio.to_thread(made.as_json), media_type=_JSON)


async def _run(services: Services, job: Job, each: Callable[[Outputs], Awaitable[None]] | None = None) -> Made:
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


async def _narrated(services: Services, job: Job, tell: Tell) -> None:
    """The job as events."""

    async def each(outputs: Outputs) -> None:
        for one in await asyncio.to_thread(_told, outputs, job.media_type):
            tell(one)

    made = await services.admitted(lambda: _run(services, job, each))
    tell(event("done", made.summary()))


def _told(outputs: Outputs, media_type: str) -> list[bytes]:
    """One response of the model as events."""
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
