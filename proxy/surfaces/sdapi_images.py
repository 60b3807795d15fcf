"""AUTOMATIC1111's API: txt2img and img2img, their progress, and how they are stopped."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from proxy.audit.notes import note_files
from proxy.documented import IMAGE, WORK, answers
from proxy.ignored import ignored, note
from proxy.policy.judging import merged
from proxy.sdapi.answers import Empty, Nothing, ProcessedImages, WebUiProgress
from proxy.sdapi.body import read_body
from proxy.sdapi.fields import Img2img, Processing, Txt2img, values_of, without_effect
from proxy.sdapi.info import encoded
from proxy.sdapi.making import make
from proxy.sdapi.options import caller, store
from proxy.sdapi.plans import planned
from proxy.sdapi.refusals import CHECKPOINT
from proxy.sdapi.works import Work
from proxy.services import Services, Use, while_connected
from proxy.tasks.tasks import Tasks, UseTasks

router = APIRouter(prefix="/sdapi/v1", tags=["web UIs"])

ORIGINALS = ("init_images", "mask")
"""The images of img2img."""
_OVERRIDE = "override_settings"
_IMAGES = answers(ProcessedImages, raises=(*IMAGE, *WORK))


@router.post("/txt2img", summary="Make images of a text", response_class=Response, **_IMAGES)
async def txt2img(request: Request, services: Use, tasks: UseTasks) -> Response:
    """`images` are PNGs in base64. `info` is the JSON of an object with the seeds, the model and the parameters of each
    image as text. A request that is interrupted answers the images that are finished."""
    return await _answered(request, services, tasks, Txt2img)


@router.post("/img2img", summary="Change an image", response_class=Response, **_IMAGES)
async def img2img(request: Request, services: Use, tasks: UseTasks) -> Response:
    """As txt2img, from the image in `init_images`. Where `mask` is white (or, if it has transparency, opaque), the
    image is painted again."""
    return await _answered(request, services, tasks, Img2img)


async def _answered(request: Request, services: Services, tasks: Tasks, kind: type[Processing]) -> Response:
    sent = await read_body(request, services)
    images = ORIGINALS if kind is Img2img else ()
    values = values_of({name: value for name, value in sent.items() if name not in images}, kind)
    override = values[_OVERRIDE] or {}
    unread = ignored([f"{_OVERRIDE}.{name}" for name in override if name != CHECKPOINT], ())
    warnings = note(request, [*without_effect(sent, kind, images), *unread])
    plan = await planned(services, tasks, values, {name: sent.get(name) for name in images})
    plan.require_ready(services)
    if override and values["override_settings_restore_afterwards"] is False:
        await store(tasks, services, override)
    work = Work(job=f"scripts_{kind.__name__.lower()}", parts=plan.parts)
    with services.works.under_way(caller(), work):
        made = await while_connected(request, make(services, plan, work))
    # Not those of the first pass, or of what was only enlarged on the way.
    await note_files([*(one.data for one in made.images), *([made.control_map] if made.control_map else [])])
    more = merged(warnings, plan.warnings)
    body = await asyncio.to_thread(encoded, plan, made, work, sent, more)
    return Response(body, media_type="application/json")


@router.get("/progress", summary="What runs", **answers(WebUiProgress))
async def progress(
    services: Use, skip_current_image: Annotated[bool, Query(description="Whether to leave the image out.")] = False
) -> dict[str, Any]:
    """The oldest request of this caller that runs, in the proxy that is asked. Callers are told apart by their key, or
    where there are no keys by their address."""
    answer, image = services.works.progress(caller())
    shown = None if image is None or skip_current_image else base64.b64encode(image).decode()
    return {**answer, "current_image": shown}


@router.post("/interrupt", summary="Stop what runs", **answers(Empty))
async def interrupt(services: Use) -> dict[str, Any]:
    """Stops the requests of this caller within a step; if none runs, those that wait. They answer the images that are
    finished."""
    services.works.interrupt(caller())
    return {}


@router.post("/skip", summary="Stop the batch that runs", **answers(Nothing))
async def skip(services: Use) -> None:
    """The request goes on with its next batch."""
    services.works.skip(caller())
