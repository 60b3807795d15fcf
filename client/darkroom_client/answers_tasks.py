"""The answers about durable tasks, read by plain functions into plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from .answers import Events, bad_answer, decode_data_url, error_from, member, number, parsed
from .models import Preview, Progress
from .models_tasks import TASK_STATES, TaskInfo, TaskPicture


def read_task(response: httpx.Response) -> TaskInfo:
    """The answer of a successful request for one task."""
    return task_from(parsed(response.content))


def read_tasks(response: httpx.Response) -> list[TaskInfo]:
    """The answer of a successful `GET /tasks`."""
    return [task_from(body) for body in member(parsed(response.content), "tasks", list)]


def task_from(body: Any) -> TaskInfo:
    """A task out of its JSON."""
    state = member(body, "status", str)
    if state not in TASK_STATES:
        raise bad_answer(f"the state {state!r} of a task is unknown")
    position, error = body.get("queue_position"), body.get("error")
    return TaskInfo(
        id=member(body, "task_id", str),
        operation=member(body, "operation", str),
        state=state,
        progress=Progress(done=member(body, "step", int), total=member(body, "total_steps", int)),
        queue_position=position if isinstance(position, int) else None,
        seconds_left=number(body, "estimated_time"),
        created_at=member(body, "created_at", str),
        pictures=tuple(_picture(entry) for entry in member(body, "results", list)),
        error=error_from({"error": error}, status=None) if isinstance(error, Mapping) else None,
        raw=body,
    )


def _picture(entry: Any) -> TaskPicture:
    return TaskPicture(
        name=member(entry, "name", str),
        media_type=member(entry, "media_type", str),
        size=member(entry, "bytes", int),
        details=member(entry, "details", dict),
    )


class TaskEvents(Events[TaskInfo]):
    """The answer of `GET /tasks/{id}/events`."""

    kinds = frozenset({"state", "step", "preview", "done"})

    def __init__(
        self,
        on_state: Callable[[TaskInfo], None] | None,
        on_progress: Callable[[Progress], None] | None,
        on_preview: Callable[[Preview], None] | None,
    ) -> None:
        super().__init__()
        self._on_state = on_state
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._done: TaskInfo | None = None

    def take(self, kind: str, body: Any) -> None:
        if kind == "state" and self._on_state is not None:
            self._on_state(task_from(body))
        elif kind == "step" and self._on_progress is not None:
            self._on_progress(_progress(body))
        elif kind == "preview" and self._on_preview is not None:
            media_type, image = decode_data_url(member(body, "image", str))
            at = _progress(body)
            self._on_preview(Preview(image=image, media_type=media_type, done=at.done, total=at.total))
        elif kind == "done":
            self._done = task_from(body)

    def finished(self) -> TaskInfo | None:
        return self._done

    def whole(self, response: httpx.Response) -> TaskInfo:
        raise bad_answer("a stream of events was asked for, and something else came")


def _progress(body: Any) -> Progress:
    return Progress(done=member(body, "step", int), total=member(body, "total_steps", int))
