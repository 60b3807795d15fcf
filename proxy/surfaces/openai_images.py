"""OpenAI's images API: `POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from darkroom.errors import Gone, NotFound
from darkroom.images import MEDIA_TYPES
from proxy.audit.notes import note_same_work
from proxy.documented import BODY, WORK, answers
from proxy.http.conditional import file_answer
from proxy.openai.answers import OpenaiImages
from proxy.openai.calls import EDITS, GENERATIONS, VARIATIONS, Endpoint, checked_call, read_body
from proxy.openai.once import Identity, SharedWork
from proxy.openai.rendering import Renderer
from proxy.openai.state import OpenaiState, UseOpenai
from proxy.services import Services, Use, while_connected
from proxy.streams import EVENT_STREAM, EventResponse, SendEvent
from proxy.surfaces.tasks import REPLAYED, client_of, digest, idempotency_key

router = APIRouter(tags=["OpenAI"], prefix="/v1/images")

_RETRIES = "x-stainless-retry-count"
_MEDIA = tuple(media_type for media_type in MEDIA_TYPES.values() if media_type.startswith("image/"))


def _image_answers(*media: str) -> dict[str, Any]:
    return answers(OpenaiImages, raises=(*BODY, *WORK), media=media, headers=(REPLAYED,))


@router.post(
    "/generations",
    summary="Make images of a text, as OpenAI's API does",
    response_class=Response,
    **_image_answers(EVENT_STREAM),
)
async def generations(request: Request, services: Use, state: UseOpenai) -> Response:
    """OpenAI's fields, and those of the model as `POST /generate` has them: `seed`, `negative_prompt`,
    `num_inference_steps`, `guidance_scale`, `loras` and so on. With `stream` the answer is events:
    `image_generation.partial_image`, then `image_generation.completed` for each image."""
    return await _answered(request, services, state, GENERATIONS)


@router.post(
    "/edits",
    summary="Change an image, as OpenAI's API does",
    response_class=Response,
    **_image_answers(EVENT_STREAM),
)
async def edits(request: Request, services: Use, state: UseOpenai) -> Response:
    """A form with `image` (several as `image[]`), `prompt` and perhaps `mask`: a PNG whose transparent parts are
    changed. Without a model for editing, a model that generates changes the image (`strength`). Events are
    `image_edit.partial_image` and `image_edit.completed`."""
    return await _answered(request, services, state, EDITS)


@router.post(
    "/variations",
    summary="Vary an image, as OpenAI's API did",
    response_class=Response,
    **_image_answers(),
)
async def variations(request: Request, services: Use, state: UseOpenai) -> Response:
    """Image to image with an empty prompt. `strength` says how much is changed; 0.6 by default."""
    return await _answered(request, services, state, VARIATIONS)


@router.get(
    "/files/{name}",
    summary="An image behind a URL",
    response_class=FileResponse,
    **answers(None, raises=(NotFound, Gone), media=_MEDIA),
)
async def openai_file(name: str, request: Request, state: UseOpenai) -> Response:
    """The URLs of answers with `response_format` url. They are good for an hour; then 410, and later 404."""
    path, found = await asyncio.to_thread(state.published.find, name)
    kind = MEDIA_TYPES[path.suffix.removeprefix(".")]
    return file_answer(request, path, found, media_type=kind, filename=name)


async def _answered(request: Request, services: Services, state: OpenaiState, endpoint: Endpoint) -> Response:
    """Begin the work of a request, or find that of an earlier attempt, and answer with it."""
    fields = await read_body(request, services, endpoint)
    identity = await _identity(request, fields)
    work = state.works.find(identity)
    replayed = work is not None
    if work is None:
        call = await checked_call(request, services, endpoint, fields)
        call.model.require_ready(services)
        await services.check(call.jobs[0].model.name)
        renderer = Renderer(services, call, state.published, partial(_address, request))
        streamed = call.partial_images is not None
        # Another attempt may have come while this one was checked.
        work = state.works.find(identity) or state.works.begin(identity, renderer.render, streamed=streamed)
    note_same_work(work.notes)
    headers = {REPLAYED: "true"} if replayed else {}
    if work.streamed:
        answer = EventResponse(partial(_follow, work))
        answer.headers.update(headers)
        return answer
    body = await while_connected(request, _whole(work))
    return Response(body, media_type="application/json", headers=headers)


async def _identity(request: Request, fields: dict[str, Any]) -> Identity | None:
    """What a request that comes again is known by. None for clients that do not say which attempt it is: their work
    ends when they go away."""
    key, retries = idempotency_key(request), request.headers.get(_RETRIES)
    if key is None and retries is None:
        return None
    hashed = await asyncio.to_thread(digest, fields)
    named = f"key {key}" if key is not None else f"body {hashed}"
    return Identity(
        key=f"{client_of(request)} {request.url.path} {named}",
        digest=hashed,
        named=key is not None,
        again=(retries or "0").strip() not in ("", "0"),
    )


def _address(request: Request, name: str) -> str:
    """The URL of a published image, by the address that the client used."""
    return str(request.url_for("openai_file", name=name))


async def _follow(work: SharedWork, send: SendEvent) -> None:
    async for part in _parts(work):
        send(part)


async def _whole(work: SharedWork) -> bytes:
    return b"".join([part async for part in _parts(work)])


async def _parts(work: SharedWork) -> AsyncIterator[bytes]:
    async with aclosing(work.follow()) as parts:
        async for part in parts:
            yield part
