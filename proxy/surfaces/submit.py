"""Asynchronous generation: contract B, in front of the durable tasks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from darkroom.errors import InvalidInput, ModerationBlocked
from darkroom.request.edge import Number, Text, Whole, word
from darkroom.request.fields import Bounds
from darkroom.request.image import ImageRequest
from proxy.answers import BatchSubmitted, Submitted, SubmittedStatus
from proxy.documented import IMAGE, SUBMIT, TASK, answers
from proxy.errors import first_problem
from proxy.http.json_body import read_json
from proxy.ignored import ignored, note
from proxy.models import installed
from proxy.operations import operation_named
from proxy.operations.enlarging import ENLARGE, enlarge_ranges
from proxy.operations.generate import Generate
from proxy.operations.taking import MODEL
from proxy.policy.judging import merged
from proxy.services import Services, Use
from proxy.surfaces.tasks import (
    REPLAYED,
    client_of,
    digest,
    idempotency_key,
    moment,
    processing_time,
    result_urls,
)
from proxy.tasks.models import QueueEstimates, Task, Work
from proxy.tasks.tasks import UseTasks
from proxy.validation import Model as Fields
from proxy.validation import validated

router = APIRouter(tags=["asynchronous generation"])

RESOLUTIONS = ("1024x1024", "1024x768", "768x1024", "512x512")
_ENUM: dict[str, Any] = {"enum": list(RESOLUTIONS)}
_USUAL_STEPS = 50
_OTHER_NAMES = {ours: name for name, ours in ImageRequest.aliases().items()}
"""The contract's name of a field, by the operation's name."""
BY_CONTRACT = frozenset(_OTHER_NAMES)
"""Fields of the operation that have another name in this contract."""
ELSEWHERE = {
    "width": "resolution says the size",
    "height": "resolution says the size",
    "size": "resolution says the size",
    "enlarge": "resolution says the size",
    "enlarge_model": "SUBMIT_ENLARGE names the upscaler",
    "priority": "POST /tasks takes priorities",
}
"""Fields of the operations and of `POST /tasks` that `POST /submit` does not take, and what there is instead."""
_TAKEN = frozenset({"prompt", "resolution", *_OTHER_NAMES.values()})
_RAISES = (*IMAGE, *SUBMIT)
_ACCEPTED = "Task submitted successfully"


_PREFERRED = "hidream"
"""The model that this contract is of."""
_AUTO = "auto"


def submit_operation(services: Services) -> Generate:
    """Return the operation of `POST /submit`: SUBMIT_OPERATION; for auto the contract's own model, if installed."""
    wanted: str = services.settings.submit_operation
    if wanted == _AUTO:
        there = {model.name for model in installed(services, "generate")}
        wanted = _PREFERRED if _PREFERRED in there else "generate"
    return cast(Generate, operation_named(wanted))


def _body(kind: type[Fields]) -> Callable[[Request, Services], Coroutine[Any, Any, Fields]]:
    """A dependency that reads a JSON body. FastAPI's own refuses some bad bodies without naming a field."""

    async def read(request: Request, services: Use) -> Fields:
        body = await read_json(request, images=(), max_mb=1)
        return validated(body, kind, _ranges(submit_operation(services), services))

    return read


def _ranges(operation: Generate, services: Services) -> dict[str, Bounds]:
    return operation.model.family.request.ranges(operation.model.limits(services))


class ImageGenerationRequest(BaseModel):
    """One request. Further fields are those of the operation, `seed` and `negative_prompt` for example, but for the
    size: that is `resolution`."""

    model_config = ConfigDict(extra="allow")

    prompt: Text = Field(min_length=1)
    resolution: Annotated[Text, word("resolution", RESOLUTIONS)] = Field("1024x1024", json_schema_extra=_ENUM)
    num_inference_steps: Annotated[Whole, Field(ge=1)] = _USUAL_STEPS
    num_images_per_prompt: Annotated[Whole, Field(ge=1)] = 1
    negative_prompt: Text | None = None
    guidance_scale: Number | None = None
    seed: Whole | None = None

    def sent(self, most_steps: int) -> dict[str, Any]:
        """The fields with the contract's defaults, but for a default where the operation's own name was used.

        :param most_steps: that the installation allows.
        """
        fields = self.model_dump(exclude_none=True)
        if "num_inference_steps" not in self.model_fields_set:
            fields["num_inference_steps"] = default_steps(most_steps)
        for other, name in _OTHER_NAMES.items():
            if other in fields and name not in self.model_fields_set:
                del fields[name]
        return fields


def default_steps(most: int) -> int:
    """Return the contract's number of steps, or the installation's maximum if that is lower."""
    return min(_USUAL_STEPS, most)


class BatchRequest(BaseModel):
    """Several requests, of which all are accepted or none."""

    model_config = ConfigDict(extra="allow")

    requests: list[ImageGenerationRequest] = Field(min_length=1, max_length=1000)


@router.post("/submit", summary="Submit an image to be made", **answers(Submitted, raises=_RAISES, headers=(REPLAYED,)))
async def submit(
    body: Annotated[ImageGenerationRequest, Depends(_body(ImageGenerationRequest))],
    request: Request,
    services: Use,
    tasks: UseTasks,
) -> Response:
    """Answers at once; `/status/{task_id}` shows the progress and the result."""
    warnings = note(request, _ignored(body, services))
    works = await _works([body], request, services, tasks)
    ((task, new),) = await _submit(works, request, services, tasks)
    content = {**_accepted(task, await tasks.estimates_of_accepted()), **merged(warnings, works.warnings)}
    return JSONResponse(content, headers=_replayed(new))


@router.post(
    "/batch_submit", summary="Submit several images", **answers(BatchSubmitted, raises=_RAISES, headers=(REPLAYED,))
)
async def batch_submit(
    body: Annotated[BatchRequest, Depends(_body(BatchRequest))], request: Request, services: Use, tasks: UseTasks
) -> Response:
    """All requests are accepted, or none. `task_ids` and `tasks` are in the order of the requests."""
    unknown = ignored(body.model_extra or {}, BatchRequest.model_fields)
    for index, one in enumerate(body.requests):
        unknown += _ignored(one, services, f"requests[{index}].")
    warnings = note(request, unknown)
    works = await _works(body.requests, request, services, tasks)
    accepted = await _submit(works, request, services, tasks)
    estimates = await tasks.estimates_of_accepted()
    shown_tasks = [_accepted(task, estimates) for task, _ in accepted]
    content = {
        "task_ids": [answer["task_id"] for answer in shown_tasks],
        "tasks": shown_tasks,
        "total": len(shown_tasks),
        "message": f"{len(shown_tasks)} tasks submitted successfully",
        **merged(warnings, works.warnings),
    }
    return JSONResponse(content, headers=_replayed(all(new for _, new in accepted)))


def _ignored(body: ImageGenerationRequest, services: Services, prefix: str = "") -> list[dict[str, Any]]:
    """Return warnings for unknown fields; fields that belong to another endpoint are refused."""
    names = _TAKEN | submit_operation(services).names | ELSEWHERE.keys()
    return ignored(body.model_extra or {}, names, prefix)


def _accepted(task: Task, estimates: QueueEstimates) -> dict[str, Any]:
    seconds = max(1, math.ceil(estimates[task.lane].seconds_until_done(task)))
    return {"task_id": task.id, "status": task.state, "estimated_time": seconds, "message": _ACCEPTED}


def _replayed(new: bool) -> dict[str, str]:
    return {} if new else {REPLAYED: "true"}


@dataclass(frozen=True, kw_only=True)
class _Works:
    """What a request asks for.

    :param sent: its fields, of which the digest is made.
    """

    operation: Generate
    works: list[Work]
    sent: list[dict[str, Any]]

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Of all works, with the places of their fields in the request."""
        if len(self.works) == 1:
            return [dict(one) for one in self.works[0].warnings]
        return [
            {**one, "field": f"requests[{index}].{one['field']}"}
            for index, work in enumerate(self.works)
            for one in work.warnings
        ]


async def _works(bodies: list[ImageGenerationRequest], request: Request, services: Services, tasks: UseTasks) -> _Works:
    """Check the requests.

    :raises DarkroomError: one of them is refused.
    """
    key = idempotency_key(request)
    tasks.check(len(bodies), key, submit_operation(services).lane)  # before each of them costs time
    operation = _operation_of(bodies, services)
    sent = [body.sent(int(_ranges(operation, services)["steps"][1])) for body in bodies]
    checkpoint = await asyncio.to_thread(operation.model.checkpoint, services)
    side = checkpoint.side if checkpoint is not None else None
    multiple = operation.model.family.request.fields()["width"].multiple
    works: list[Work] = []
    for index, fields in enumerate(sent):
        sized = _sized(fields, side, multiple, services.settings.submit_enlarge)
        try:
            _refuse_what_is_elsewhere(fields)
            works.append(await operation.accept(services, {k: v for k, v in sized.items() if k != MODEL}))
        except RequestValidationError as error:
            message, param = first_problem(error)
            raise _as_sent(InvalidInput(message, param=param), fields, index, len(sent)) from None
        except InvalidInput as error:
            raise _as_sent(error, fields, index, len(sent)) from None
        except ModerationBlocked as error:
            where = f"requests[{index}]: " if len(sent) > 1 else ""
            raise ModerationBlocked(where + error.message, param=error.param, rule=error.rule) from None
    return _Works(operation=operation, works=works, sent=sent)


async def _submit(found: _Works, request: Request, services: Services, tasks: UseTasks) -> list[tuple[Task, bool]]:
    return await tasks.submit(
        found.operation.name,
        found.works,
        client=client_of(request),
        key=idempotency_key(request),
        digest=await asyncio.to_thread(digest, found.sent),
        requested_operation=submit_operation(services).name,
    )


def _operation_of(bodies: list[ImageGenerationRequest], services: Services) -> Generate:
    """The operation by the model that the requests name.

    :raises InvalidInput, NotFound: there is no such model, or they name several.
    """
    usual = submit_operation(services)
    found = [cast(Generate, usual.bound(services, dict(body.model_extra or {}))) for body in bodies]
    for index, one in enumerate(found):
        if one != found[0]:
            raise InvalidInput(
                f"requests[{index}]: model must be the same in all requests of a batch; got {one.model.name} after "
                f"{found[0].model.name}.",
                param=MODEL,
            )
    return found[0]


def _refuse_what_is_elsewhere(fields: Mapping[str, Any]) -> None:
    for name, instead in ELSEWHERE.items():
        if name in fields:
            raise InvalidInput(f"{name} is not for /submit: {instead}.", param=name)


def _as_sent(error: InvalidInput, fields: Mapping[str, Any], index: int, count: int) -> InvalidInput:
    """An error of the operation with the field's name that the client used, and which request of a batch it is in."""
    where = f"requests[{index}]: " if count > 1 else ""
    ours = error.param or ""
    param = _OTHER_NAMES.get(ours)
    if param is None or param not in fields:
        return type(error)(where + error.message, param=error.param)
    return type(error)(where + error.message.replace(ours, param, 1), param=param)


def _sized(sent: Mapping[str, Any], side: int | None, multiple: int, upscaler: str) -> dict[str, Any]:
    """The fields of the operation."""
    fields = {name: value for name, value in sent.items() if name != "resolution"}
    width, height = (int(part) for part in str(sent["resolution"]).split("x"))
    factor = _reduction(width, height, side, multiple) if side is not None and upscaler != "none" else 1
    if factor > 1:
        fields |= {"enlarge": factor, "enlarge_model": upscaler}
    return fields | {"width": width // factor, "height": height // factor}


def _reduction(width: int, height: int, side: int, multiple: int) -> int:
    """By how much an image is made smaller than it was asked for, to be enlarged afterwards: a checkpoint draws well
    at the number of pixels that it was trained at, and repeats itself on many more. The smallest whole number that
    reaches it, or comes closest.

    :param side: width and height that the checkpoint was trained at.
    :param multiple: of which its sides have to be.
    """
    fitting = [
        factor
        for factor in range(1, int(enlarge_ranges()[ENLARGE][1]) + 1)
        if width % (factor * multiple) == 0 and height % (factor * multiple) == 0
    ]
    return next((factor for factor in fitting if width * height <= (factor * side) ** 2), fitting[-1])


@router.get("/status/{task_id}", summary="State of a submitted image", **answers(SubmittedStatus, raises=TASK))
async def submitted_status(task_id: str, request: Request, tasks: UseTasks) -> dict[str, Any]:
    """`progress` goes with the steps, 0 to 100; `error` is there when it failed."""
    task = await tasks.get(task_id)
    content: dict[str, Any] = {
        "task_id": task.id,
        "status": task.state,
        "progress": math.floor(100 * task.share),
        "result_urls": result_urls(task, request),
        "processing_time": processing_time(task),
        "created_at": moment(task.created_at),
        "completed_at": moment(task.completed_at),
    }
    if task.error is not None:
        content["error"] = task.error["message"]
    return content
