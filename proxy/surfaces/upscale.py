"""Upscaling: contract D."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, File, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile as StarletteUpload

from darkroom.devices import serving_device
from darkroom.errors import DarkroomError, InvalidInput, NotReady, TooLarge
from darkroom.images import MEDIA_TYPES, probe
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale import request as fields
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.request.edge import edge_model, named
from darkroom.serving.model_config import on_cpu, read_config
from darkroom.settings import Settings
from proxy.answers import UpscaledBatch, UpscaleInfo
from proxy.archive import Archive, entry_name, unused
from proxy.audit.notes import note_inputs, note_request
from proxy.documented import BODY, IMAGE, WORK, answers
from proxy.errors import describe
from proxy.http.accept import accept_of
from proxy.http.forms import FormRoute
from proxy.ignored import ignored, note
from proxy.keys.ledger import charged
from proxy.models import ServedModel, default_model
from proxy.operations.taking import names_of, take
from proxy.operations.upscaling import Upscaled, run
from proxy.policy.judging import judge_request, merged
from proxy.services import Services, Use, while_connected, within
from proxy.sources import SOURCE
from proxy.streams import EVENT_STREAM, EventResponse, SendEvent, event, wants_events
from proxy.uploads import read_fields, read_file
from proxy.validation import validated

router = APIRouter(prefix="/api", tags=["upscaling"], route_class=FormRoute)

_BATCH_PARALLEL = 2
_FIELDS = edge_model(fields.UpscaleRequest)
_BATCH_NAMES = frozenset({*_FIELDS.model_fields, "files"})
_ERRORS = "errors.json"
_NAMELESS = "file"
_ONE = answers(
    None,
    raises=(*IMAGE, *WORK),
    media=(*MEDIA_TYPES.values(), EVENT_STREAM),
    headers=("X-Upscale-Model", "X-Upscale-Scale", "X-Dropped-Metadata"),
)
_BATCH = answers(UpscaledBatch, raises=(*BODY, *WORK), media=("application/zip",), headers=("X-Failed-Files",))


@dataclass(frozen=True, kw_only=True)
class UpscaleCall:
    """What a request says.

    :param request: of a batch, without the image.
    :param warnings: what to add to an answer in JSON.
    """

    model: ServedModel
    request: fields.UpscaleRequest
    warnings: dict[str, Any]


async def _read_call(request: Request, services: Use) -> UpscaleCall:
    """A request for one image, of which only the header has been looked at."""
    sent = await read_fields(request, max_mb=services.settings.max_upload_mb)
    model = default_model(services, "upscale")
    warnings = note(request, ignored(sent, names_of(model)))
    taken = await take(services, model, sent)
    parsed = cast(fields.UpscaleRequest, taken.request)
    return UpscaleCall(model=model, request=parsed, warnings=merged(warnings, taken.warnings))


async def _read_batch_call(
    request: Request,
    services: Use,
    files: Annotated[list[UploadFile], File(description="Up to MAX_BATCH_FILES images.")],
) -> tuple[UpscaleCall, list[UploadFile]]:
    """A request for several images, which stay where the form has them."""
    form = await request.form()
    sent: dict[str, Any] = {name: value for name, value in form.multi_items() if name != "files"}
    warnings = note(request, ignored(sent, _BATCH_NAMES))
    for name in _FIELDS.model_fields:
        if isinstance(sent.get(name), StarletteUpload):
            raise InvalidInput(f"{name} must be text and no file.", param=name)
    model = default_model(services, "upscale")
    ranges = fields.UpscaleRequest.ranges(model.limits(services))
    given = named(fields.UpscaleRequest, validated(sent, _FIELDS, ranges).model_dump())
    options = cast(fields.UpscaleRequest, model.parse(services, given))
    await note_request(model.family.operation, model.name, given)
    most = services.settings.max_batch_files
    if len(files) > most:
        raise TooLarge(f"files: at most {most} images at once; got {len(files)}.", param="files")
    changes = await judge_request(services, model, options)
    if changes.values:
        options = options.with_values(**changes.values)
        warnings = merged(warnings, changes.warnings)
    return UpscaleCall(model=model, request=options, warnings=warnings), files


@router.get("/info", summary="Models, device and limits", **answers(UpscaleInfo))
async def info(services: Use) -> dict[str, Any]:
    """What this installation can do."""
    settings, monitor, limits = services.settings, services.monitor, UpscaleSettings.of(services.settings)
    served = [n for n in networks.NETWORKS if monitor.models.get(n.model_name)]
    families = dict.fromkeys(n.family for n in served)
    return {
        "device": serving_device(monitor.providers.values()),
        "default_model": networks.DEFAULT_MODEL,
        "models": [_family(family, [n for n in served if n.family == family]) for family in families],
        "networks": [
            {
                "name": n.label,
                "scale": n.scale,
                "title": n.title,
                "provider": monitor.providers.get(n.model_name),
                "tile": _default_tile(settings, n),
            }
            for n in served
        ],
        "tile": limits.tile,
        "tile_pad": limits.tile_pad,
        "precision": _precision(settings.model_repository, served),
        "formats": fields.FORMATS,
        "limits": {
            "scale": fields.SCALE_RANGE,
            "tile": fields.TILE_RANGE,
            "max_pixels": limits.max_pixels,
            "max_output_pixels": limits.max_output_pixels,
            "max_upload_mb": settings.max_upload_mb,
            "max_batch_mb": settings.max_batch_mb,
            "max_batch_files": settings.max_batch_files,
            "task_timeout": settings.task_timeout,
            "task_queue_size": settings.task_queue_size,
        },
    }


def _default_tile(settings: Settings, network: networks.UpscaleNetwork) -> int | None:
    """The tile of requests that do not say; None where the repository is on another machine."""
    config = read_config(settings.model_repository / network.model_name)
    if config is None:
        return None
    window = network.window_cpu if on_cpu(config) else None
    return fields.default_tile(UpscaleSettings.of(settings), UpscaleSettings.of(settings).tile_pad, window)


def _family(name: str, members: list[networks.UpscaleNetwork]) -> dict[str, Any]:
    return {"name": name, "title": members[0].title.split(",")[0], "scales": [n.scale for n in members]}


def _precision(repository: Path, served: list[networks.UpscaleNetwork]) -> str | None:
    """fp32 or fp16, as the export wrote it down; None where the repository is on another machine."""
    for network in served:
        record = repository / network.model_name / "1" / "export.json"
        if record.exists():
            return str(json.loads(record.read_text()).get("precision"))
    return None


@router.post("/upscale", summary="Upscale one image", response_class=Response, **_ONE)
async def upscale(request: Request, services: Use, call: Annotated[UpscaleCall, Depends(_read_call)]) -> Response:
    """Takes a form with a file, or the image as base64 in it or in JSON. Answers the image itself. With
    `Accept: text/event-stream` it answers events instead: `progress` with the tiles done and in all, then `image` with
    the image as a data URL, or `error`.

    `X-Dropped-Metadata` (in JSON `dropped_metadata`) names what the answer has no room for: `icc_profile`, a colour
    profile so large that programs could not open the answer."""
    call.model.require_ready(services)
    if wants_events(request, *MEDIA_TYPES.values()):
        await services.check(call.model.name)
        return EventResponse(partial(_stream_events, services, call))
    result = await while_connected(
        request, services.admitted(partial(run, services, call.model, call.request), call.model.name)
    )
    return Response(result.data, media_type=result.media_type, headers=result.headers)


@router.post("/upscale-batch", summary="Upscale several images", response_class=Response, **_BATCH)
async def upscale_batch(
    request: Request, services: Use, given: Annotated[tuple[UpscaleCall, list[UploadFile]], Depends(_read_batch_call)]
) -> Response:
    """Answers a zip of the results, with `errors.json` for the files that failed; with
    `Accept: application/json` a list with one entry per file. A bad file does not lose the others."""
    call, files = given
    call.model.require_ready(services)
    work = _batch_json if accept_of(request).prefers("application/json", "application/zip") else _batch_zip
    return await while_connected(request, work(services, files, call))


async def _read(file: UploadFile, services: Services, call: UpscaleCall) -> fields.UpscaleRequest:
    """The request for one file, after a look at its size and its header, by which the content policy judges it."""
    data = await read_file(file, max_mb=services.settings.max_upload_mb)
    await note_inputs([data])
    header = await asyncio.to_thread(probe, data, max_pixels=UpscaleSettings.of(services.settings).max_pixels)
    changes = await judge_request(services, call.model, call.request, [header])
    return call.request.with_values(image=data, **changes.values)


async def _batch_item(services: Services, file: UploadFile, call: UpscaleCall) -> Upscaled | DarkroomError:
    """One file of an admitted batch; its error is its own."""
    try:
        work = run(services, call.model, await _read(file, services, call))
        return await within(services.settings.task_timeout, work)
    except NotReady:
        raise  # not this file's fault: the whole batch has to be sent again
    except DarkroomError as error:
        return error


async def _batch(
    services: Services, files: list[UploadFile], call: UpscaleCall
) -> AsyncGenerator[tuple[UploadFile, Upscaled | DarkroomError], None]:
    """A batch takes one place at the gate. Its files run a few at a time and are given in their order."""
    async with charged(len(files)) as charge, services.gate.admit(SOURCE.get()):
        charge.began = True
        running: deque[asyncio.Task[Upscaled | DarkroomError]] = deque()
        try:
            for i in range(len(files) + _BATCH_PARALLEL):
                if i < len(files):
                    running.append(asyncio.create_task(_batch_item(services, files[i], call)))
                if i >= _BATCH_PARALLEL:
                    result = await running.popleft()
                    charge.images -= isinstance(result, DarkroomError)
                    yield files[i - _BATCH_PARALLEL], result
        finally:
            for task in running:
                task.cancel()


async def _batch_json(services: Services, files: list[UploadFile], call: UpscaleCall) -> Response:
    results = []
    async with aclosing(_batch(services, files, call)) as batch:
        async for file, result in batch:
            entry: dict[str, Any] = {"filename": file.filename}
            if isinstance(result, Upscaled):
                entry |= {"success": True, **await asyncio.to_thread(result.as_json)}
            else:
                entry |= {"success": False, "error": describe(result)}
            results.append(entry)
    return JSONResponse({"results": results, **call.warnings})


async def _batch_zip(services: Services, files: list[UploadFile], call: UpscaleCall) -> Response:
    errors: dict[str, Any] = {}
    with Archive() as archive:
        async with aclosing(_batch(services, files, call)) as batch:
            async for file, result in batch:
                if isinstance(result, Upscaled):
                    name = entry_name(file.filename, call.request.format)
                    await asyncio.to_thread(archive.add, name, result.data)
                else:
                    errors[unused(file.filename or _NAMELESS, errors)] = describe(result)
        if errors:
            archive.add(_ERRORS, json.dumps(errors, indent=2).encode())
    return FileResponse(
        archive.path,
        media_type="application/zip",
        filename="upscaled.zip",
        headers={"X-Failed-Files": str(len(errors))},
        background=BackgroundTask(archive.remove),
    )


async def _stream_events(services: Services, call: UpscaleCall, send: SendEvent) -> None:
    """The job as events."""

    def report(done: int, total: int) -> None:
        send(event("progress", {"done": done, "total": total}))

    result = await services.admitted(lambda: run(services, call.model, call.request, report), call.model.name)
    send(await asyncio.to_thread(lambda: event("image", {**result.as_json(), **call.warnings})))
