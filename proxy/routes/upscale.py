"""Upscaling: contract D."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from darkroom.errors import DarkroomError, NotReady, TooLarge
from darkroom.images import MEDIA_TYPES, probe
from darkroom.model_config import on_cpu, read_config
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale import request as fields
from darkroom.pipelines.upscale.request import UpscaleRequest
from proxy.archive import Archive, entry_name
from proxy.devices import serving_device
from proxy.errors import describe
from proxy.http.accept import accept_of
from proxy.http.forms import FormRoute
from proxy.services import Services, Use, while_connected, within
from proxy.settings import Settings
from proxy.sources import SOURCE
from proxy.streams import EVENT_STREAM, EventResponse, Tell, event, wants_events
from proxy.uploads import read_file
from proxy.upscaling import Result, run

router = APIRouter(prefix="/api", tags=["upscaling"], route_class=FormRoute)

_BATCH_PARALLEL = 2
_IMAGE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/webp": {}, "image/jpeg": {}, EVENT_STREAM: {}}}
}
_ZIP_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}, "application/json": {}}}}


def _options(
    services: Use,
    model: Annotated[str | None, Form(description=f"One of {', '.join(networks.model_names())}.")] = None,
    scale: Annotated[
        float | None,
        Form(ge=fields.SCALE_RANGE[0], le=fields.SCALE_RANGE[1], description="Default: the model's own, 4."),
    ] = None,
    tile: Annotated[
        int | None, Form(description="32..4096 pixels, or 0 for no tiling; default: see `GET /api/info`.")
    ] = None,
    tile_pad: Annotated[int | None, Form(ge=fields.TILE_PAD_RANGE[0], le=fields.TILE_PAD_RANGE[1])] = None,
    format: Annotated[str | None, Form(description=f"One of {', '.join(fields.FORMATS)}; default png.")] = None,
    quality: Annotated[int | None, Form(ge=fields.QUALITY_RANGE[0], le=fields.QUALITY_RANGE[1])] = None,
) -> UpscaleRequest:
    given = {"model": model, "scale": scale, "tile": tile, "tile_pad": tile_pad, "format": format, "quality": quality}
    return UpscaleRequest.parse(given, services.settings.limits)


Options = Annotated[UpscaleRequest, Depends(_options)]


@router.get("/info", summary="Models, device and limits")
async def info(services: Use) -> dict[str, Any]:
    """What this installation can do."""
    settings, monitor = services.settings, services.monitor
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
        "tile": settings.upscale_tile,
        "tile_pad": settings.upscale_tile_pad,
        "precision": _precision(settings.model_repository, served),
        "formats": fields.FORMATS,
        "limits": {
            "scale": fields.SCALE_RANGE,
            "tile": fields.TILE_RANGE,
            "max_pixels": settings.upscale_max_pixels,
            "max_output_pixels": settings.upscale_max_output_pixels,
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
    return fields.default_tile(settings.limits, settings.upscale_tile_pad, window)


def _family(name: str, members: list[networks.UpscaleNetwork]) -> dict[str, Any]:
    return {"name": name, "title": members[0].title.split(",")[0], "scales": [n.scale for n in members]}


def _precision(repository: Path, served: list[networks.UpscaleNetwork]) -> str | None:
    """fp32 or fp16, as the export wrote it down; None where the repository is on another machine."""
    for network in served:
        record = repository / network.model_name / "1" / "export.json"
        if record.exists():
            return str(json.loads(record.read_text()).get("precision"))
    return None


@router.post("/upscale", summary="Upscale one picture", response_class=Response, responses=_IMAGE_ANSWER)
async def upscale(
    request: Request,
    services: Use,
    options: Options,
    file: Annotated[UploadFile, File(description="PNG, JPEG, WebP, BMP, TIFF or GIF.")],
) -> Response:
    """Answers the picture itself. With `Accept: text/event-stream` it answers events instead: `progress` with
    the tiles done and in all, then `image` with the picture as a data URL, or `error`.

    `X-Dropped-Metadata` (in JSON `dropped_metadata`) names what the answer has no room for: `icc_profile`, a colour
    profile so large that programs could not open the answer."""
    data = await _read(file, services)
    services.monitor.require()
    if wants_events(request, *MEDIA_TYPES.values()):
        services.gate.check(SOURCE.get())
        return EventResponse(partial(_narrated, services, data, options))
    result = await while_connected(request, services.admitted(partial(run, services, data, options)))
    return Response(result.data, media_type=result.media_type, headers=result.headers)


@router.post("/upscale-batch", summary="Upscale several pictures", response_class=Response, responses=_ZIP_ANSWER)
async def upscale_batch(
    request: Request,
    services: Use,
    options: Options,
    files: Annotated[list[UploadFile], File(description="Up to MAX_BATCH_FILES pictures.")],
) -> Response:
    """Answers a zip of the results, with `errors.json` for the files that failed; with
    `Accept: application/json` a list with one entry per file. A bad file does not lose the others."""
    most = services.settings.max_batch_files
    if len(files) > most:
        raise TooLarge(f"files: at most {most} pictures at once; got {len(files)}.", param="files")
    services.monitor.require()
    work = _batch_json if accept_of(request).prefers("application/json", "application/zip") else _batch_zip
    return await while_connected(request, work(services, files, options))


async def _read(file: UploadFile, services: Services) -> bytes:
    """The upload's bytes, after a look at its size and its header."""
    data = await read_file(file, max_mb=services.settings.max_upload_mb)
    await asyncio.to_thread(probe, data, max_pixels=services.settings.upscale_max_pixels)
    return data


async def _batch_item(services: Services, file: UploadFile, options: UpscaleRequest) -> Result | DarkroomError:
    """One file of an admitted batch; its error is its own."""
    try:
        data = await _read(file, services)
        return await within(services.settings.task_timeout, run(services, data, options))
    except NotReady:
        raise  # not this file's fault: the whole batch is to be sent again
    except DarkroomError as error:
        return error


async def _batch(
    services: Services, files: list[UploadFile], options: UpscaleRequest
) -> AsyncGenerator[tuple[UploadFile, Result | DarkroomError], None]:
    """A batch takes one place at the gate. Its files run a few at a time and are given in their order."""
    async with services.gate.admit(SOURCE.get()):
        running: deque[asyncio.Task[Result | DarkroomError]] = deque()
        try:
            for i in range(len(files) + _BATCH_PARALLEL):
                if i < len(files):
                    running.append(asyncio.create_task(_batch_item(services, files[i], options)))
                if i >= _BATCH_PARALLEL:
                    yield files[i - _BATCH_PARALLEL], await running.popleft()
        finally:
            for task in running:
                task.cancel()


async def _batch_json(services: Services, files: list[UploadFile], options: UpscaleRequest) -> Response:
    results = []
    async with aclosing(_batch(services, files, options)) as batch:
        async for file, result in batch:
            entry: dict[str, Any] = {"filename": file.filename}
            if isinstance(result, Result):
                entry |= {"success": True, **await asyncio.to_thread(result.as_json)}
            else:
                entry |= {"success": False, "error": describe(result)[1]["error"]}
            results.append(entry)
    return JSONResponse({"results": results})


async def _batch_zip(services: Services, files: list[UploadFile], options: UpscaleRequest) -> Response:
    errors: dict[str, Any] = {}
    with Archive() as archive:
        async with aclosing(_batch(services, files, options)) as batch:
            async for file, result in batch:
                if isinstance(result, Result):
                    name = entry_name(file.filename, options.format)
                    await asyncio.to_thread(archive.add, name, result.data)
                else:
                    errors[file.filename or ""] = describe(result)[1]["error"]
        if errors:
            archive.add("errors.json", json.dumps(errors, indent=2).encode())
    return FileResponse(
        archive.path,
        media_type="application/zip",
        filename="upscaled.zip",
        headers={"X-Failed-Files": str(len(errors))},
        background=BackgroundTask(archive.remove),
    )


async def _narrated(services: Services, data: bytes, options: UpscaleRequest, tell: Tell) -> None:
    """The job as events."""

    def report(done: int, total: int) -> None:
        tell(event("progress", {"done": done, "total": total}))

    result = await services.admitted(lambda: run(services, data, options, report))
    tell(await asyncio.to_thread(lambda: event("image", result.as_json())))
