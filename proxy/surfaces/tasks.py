"""Durable tasks: any operation as a task, what becomes of it, and its results."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.datastructures import URL

from darkroom.errors import Conflict, Gone, InvalidInput, NotFound, NotReady
from darkroom.images import MEDIA_TYPES
from darkroom.request import fields as values
from darkroom.request.edge import Whole
from proxy.answers import TaskPage, TaskView
from proxy.callers import CALLER
from proxy.documented import IMAGE, SUBMIT, TASK, answers
from proxy.http.conditional import SHOWN, file_answer
from proxy.ignored import ignored, note
from proxy.keys.ledger import require_priority
from proxy.keys.middleware import client_without_key
from proxy.operations import model_of, operation_named
from proxy.policy.judging import merged
from proxy.services import Use
from proxy.streams import EVENT_STREAM, EventQueue, EventResponse, data_url, event
from proxy.tasks.models import PRIORITIES, STATES, QueueEstimates, State, Task
from proxy.tasks.tasks import Tasks, UseTasks
from proxy.uploads import read_fields

router = APIRouter(tags=["tasks"])

REPLAYED = "Idempotent-Replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_LOOK_SECONDS = 0.25
"""Between two looks at a task that another process runs, or that waits."""
_LEAST_SECONDS = 0.05
"""However fast the steps are."""
_PAGE_LIMITS = (1, 500)
_PAGE_SCHEMA: dict[str, Any] = {"minimum": _PAGE_LIMITS[0], "maximum": _PAGE_LIMITS[1]}
_MEDIA = tuple(MEDIA_TYPES.values())


def client_of(request: Request) -> str:
    """Who asks, and owns what the request makes: see `Caller.client`."""
    return CALLER.get().client or client_without_key(request)


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key of the request, after draft-ietf-httpapi-idempotency-key-header.

    :raises InvalidInput: it is none.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key must be 1 to 255 visible ASCII characters.", param="Idempotency-Key")
    return key


def digest(content: Any) -> str:
    """A hash of what a client sent: values of JSON, and bytes. Costs time for large files: call it in a thread."""
    text = json.dumps(content, sort_keys=True, default=lambda data: hashlib.sha256(data).hexdigest())
    return hashlib.sha256(text.encode()).hexdigest()


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def result_urls(task: Task, request: Request) -> list[str]:
    """Return the URLs of the results: images below /images, other files below the task."""
    return [str(_result_url(task, result, request)) for result in task.results]


def _result_url(task: Task, result: Mapping[str, Any], request: Request) -> URL:
    if result["media_type"] in SHOWN and "filename" not in result:
        return request.url_for("image", name=result["name"])
    return request.url_for("task_result", task_id=task.id, name=result.get("filename", result["name"]))


def processing_time(task: Task) -> float | None:
    """Seconds from the beginning of the run to its end, or until now."""
    if task.started_at is None or task.state in ("queued", "paused"):
        return None
    return round(max(0.0, (task.completed_at or time.time()) - task.started_at), 3)


def shown(task: Task, estimates: QueueEstimates, request: Request, tasks: Tasks) -> dict[str, Any]:
    """A task as JSON."""
    urls, estimate = result_urls(task, request), estimates[task.lane]
    return {
        "task_id": task.id,
        "operation": task.requested_operation or task.operation,
        "model": model_of(task.operation),
        "status": task.state,
        "priority": task.priority,
        "progress": math.floor(100 * task.share),
        "step": task.step,
        "total_steps": task.steps,
        "queue_position": _position(task, estimates),
        "loading": tasks.loading(task),
        "estimated_time": round(estimate.seconds_until_done(task) + tasks.seconds_until_loaded(task), 1),
        "attempts": task.attempts,
        "created_at": moment(task.created_at),
        "started_at": moment(task.started_at),
        "completed_at": moment(task.completed_at),
        "processing_time": processing_time(task),
        "result_urls": urls,
        "results": [{**result, "url": url} for result, url in zip(task.results, urls, strict=True)],
        "error": task.error,
    }


def _position(task: Task, estimates: QueueEstimates) -> int | None:
    """The position in the queue; None for a task that does not wait. Estimates may be older than the task's state."""
    return estimates[task.lane].position(task.id) if task.state == "queued" else None


@router.post(
    "/tasks",
    status_code=202,
    summary="Begin a task",
    response_class=JSONResponse,
    **answers(TaskView, raises=(*IMAGE, *SUBMIT), status=202, headers=("Location", REPLAYED)),
)
async def submit_task(request: Request, services: Use, tasks: UseTasks) -> Response:
    """Takes `operation`, its fields, and `priority`, as JSON or as a form; answers 202 with the task once it is on the
    disk. With an `Idempotency-Key`, the same request again gives the same task, with `Idempotent-Replayed: true`, and
    another request 409."""
    key = idempotency_key(request)
    tasks.check(1, key)  # before the request costs time
    fields = await read_fields(request, max_mb=services.settings.max_upload_mb)
    hashed = await asyncio.to_thread(digest, fields)
    requested = operation_named(fields.pop("operation", None))
    operation = requested.bound(services, fields)
    tasks.check(1, key, operation.lane)
    wanted = fields.pop("priority", None)
    priority = None if wanted in (None, "") else values.choice("priority", wanted, PRIORITIES)
    if priority is not None:
        require_priority(priority)
    warnings = note(request, ignored(fields, operation.names))
    work = await operation.accept(services, fields)
    who = client_of(request)
    ((task, new),) = await tasks.submit(
        operation.name,
        [work],
        client=who,
        priority=priority,
        key=key,
        digest=hashed,
        requested_operation=requested.name,
    )
    headers = {"Location": f"/tasks/{task.id}"} | ({} if new else {REPLAYED: "true"})
    content = shown(task, await tasks.estimates_of_accepted(), request, tasks)
    return JSONResponse({**content, **merged(warnings, work.warnings)}, 202, headers)


@router.get("/tasks", summary="The newest tasks of this client", **answers(TaskPage, raises=(NotReady,)))
async def list_tasks(
    request: Request,
    tasks: UseTasks,
    state: Annotated[str | None, Query(json_schema_extra={"enum": list(STATES)})] = None,
    limit: Annotated[Whole, Query(ge=_PAGE_LIMITS[0], le=_PAGE_LIMITS[1], json_schema_extra=_PAGE_SCHEMA)] = 50,
) -> dict[str, Any]:
    """The tasks that were sent with the same key, or without one from the same address; the newest first. An admin's
    key gets those of all keys."""
    name = values.choice("state", state, STATES) if state is not None else None
    known: State | None = next((one for one in STATES if one == name), None)
    caller = CALLER.get()
    everybody = caller.key is not None and caller.sees_all
    page = await tasks.page(client=None if everybody else client_of(request), state=known, limit=limit)
    estimates = await tasks.queue_estimates()
    return {"tasks": [shown(task, estimates, request, tasks) for task in page]}


@router.get("/tasks/{task_id}", summary="A task", **answers(TaskView, raises=TASK))
async def get_task(task_id: str, request: Request, tasks: UseTasks) -> dict[str, Any]:
    """404 for an unknown id, 410 for a task whose results are deleted."""
    return shown(await tasks.get(task_id), await tasks.queue_estimates(), request, tasks)


@router.delete("/tasks/{task_id}", summary="Cancel a task", **answers(TaskView, raises=(*TASK, Conflict)))
async def cancel_task(task_id: str, request: Request, tasks: UseTasks) -> dict[str, Any]:
    """A task that runs stops within one step. 409 for one that has completed or failed."""
    return shown(await tasks.cancel(task_id), await tasks.queue_estimates(), request, tasks)


@router.post("/tasks/{task_id}/pause", summary="Pause a training", **answers(TaskView, raises=(*TASK, Conflict)))
async def pause_task(task_id: str, request: Request, tasks: UseTasks) -> dict[str, Any]:
    """It stops within a step, keeps what it has done, and takes no slot until it is resumed. 409 for tasks that have
    ended, and for those of operations that cannot be paused."""
    return shown(await tasks.pause(task_id), await tasks.queue_estimates(), request, tasks)


@router.post("/tasks/{task_id}/resume", summary="Resume a training", **answers(TaskView, raises=(*TASK, Conflict)))
async def resume_task(task_id: str, request: Request, tasks: UseTasks) -> dict[str, Any]:
    """It waits in the queue again, and goes on from its last step. 409 for tasks that have ended."""
    return shown(await tasks.resume(task_id), await tasks.queue_estimates(), request, tasks)


@router.get(
    "/tasks/{task_id}/events",
    summary="Follow a task",
    response_class=Response,
    **answers(None, raises=TASK, media=(EVENT_STREAM,)),
)
async def task_events(task_id: str, request: Request, tasks: UseTasks) -> Response:
    """Events: `state`, at once and whenever it or the position in the queue changes; `step` with the steps; `preview`
    if the request asked for some and this process runs the task; at its end `done` with the task."""
    await tasks.get(task_id)
    return EventResponse(partial(stream_events, tasks, task_id, request))


async def stream_events(tasks: Tasks, id: str, request: Request, send: EventQueue) -> None:
    sent_state: Any = None
    sent_step: Any = None
    previews = 0
    while True:
        live = tasks.live(id)
        task = await tasks.get(id)
        estimates = await tasks.recent_estimates()
        position = _position(task, estimates)
        step = (live.step, live.steps) if live and live.steps else (task.step, task.steps)
        behind = send.behind
        if (task.state, position, loading := tasks.loading(task)) != sent_state:
            sent_state = (task.state, position, loading)
            send(event("state", shown(task, estimates, request, tasks)))
        if task.ended:
            send(event("done", shown(task, estimates, request, tasks)))
            return
        if task.state == "processing" and step != sent_step and not behind:
            sent_step = step
            percent = 100 * step[0] // max(1, step[1])
            send(event("step", {"step": step[0], "total_steps": step[1], "progress": percent}))
        if live and live.preview is not None and live.previews != previews and not behind:
            previews = live.previews
            send(await asyncio.to_thread(_preview, live.preview, step))
        await asyncio.sleep(_LEAST_SECONDS)
        await (live.wait(_LOOK_SECONDS) if live else asyncio.sleep(_LOOK_SECONDS))


def _preview(data: bytes, step: tuple[int, int]) -> bytes:
    image = data_url(data, MEDIA_TYPES["png"])
    return event("preview", {"image": image, "step": step[0], "total_steps": step[1]})


@router.get(
    "/tasks/{task_id}/results/{name}",
    summary="A result of a task",
    response_class=FileResponse,
    **answers(None, raises=(*TASK, Conflict), media=_MEDIA),
)
async def task_result(task_id: str, name: str, request: Request, tasks: UseTasks) -> Response:
    """By the `filename` of a result, or by its `name`. Images are shown by browsers, other files are saved. 409 while
    the task has not completed."""
    task = await _completed(task_id, tasks)
    result = next((one for one in task.results if name in (one.get("filename"), one["name"])), None)
    if result is None:
        raise NotFound(f"The task has no result {name[:80]!r}.", param="name")
    return await _file(result, request, tasks)


@router.get(
    "/download/{task_id}",
    summary="A result of a task, by its number",
    response_class=FileResponse,
    **answers(None, raises=(*TASK, Conflict), media=_MEDIA),
)
async def download(
    task_id: str,
    request: Request,
    tasks: UseTasks,
    image_index: Annotated[Whole, Query(ge=0, description="From 0.", json_schema_extra={"minimum": 0})] = 0,
) -> Response:
    """409 while the task has not completed, 404 for a result that it does not have."""
    task = await _completed(task_id, tasks)
    if image_index >= len(task.results):
        raise NotFound(
            f"image_index must be below {len(task.results)}, the number of results; got {values.shown(image_index)}.",
            param="image_index",
        )
    return await _file(task.results[image_index], request, tasks)


@router.get(
    "/images/{name}",
    summary="An image of a task",
    response_class=FileResponse,
    **answers(None, raises=TASK, media=_MEDIA),
)
async def image(name: str, request: Request, tasks: UseTasks) -> Response:
    """By the name that `result_urls` gives."""
    found = tasks.files.result(name)
    task = await tasks.get(found[0]) if found else None
    result = next((one for one in task.results if one["name"] == name), None) if task else None
    if result is None:
        raise NotFound(f"There is no image {name[:80]!r}.", param="name")
    return await _file(result, request, tasks)


async def _completed(id: str, tasks: Tasks) -> Task:
    """:raises NotFound, Gone, Conflict: there is none of that id; it has no results, or none yet."""
    task = await tasks.get(id)
    if task.state != "completed":
        raise Conflict(f"The task is {task.state} and has no results to download.", param="task_id")
    return task


async def _file(result: Mapping[str, Any], request: Request, tasks: Tasks) -> Response:
    """The file of a result.

    :raises Gone: it is deleted.
    """
    found = tasks.files.result(str(result["name"]))
    try:
        if found is None:
            raise FileNotFoundError
        there = await asyncio.to_thread(found[1].stat)
    except OSError:
        raise Gone("The file was kept for its time and is deleted.", param="name") from None
    filename = str(result.get("filename", result["name"]))
    return file_answer(request, found[1], there, media_type=result["media_type"], filename=filename)
