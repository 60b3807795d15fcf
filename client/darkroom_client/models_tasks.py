"""Durable tasks, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import DarkroomError
from .models import Progress

TaskState = Literal["queued", "processing", "paused", "completed", "failed", "cancelled"]
TASK_STATES: tuple[str, ...] = get_args(TaskState)
Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True, kw_only=True)
class TaskPicture:
    """An image of a completed task; `Client.download` fetches it.

    :param size: bytes of the encoded file.
    :param details: what it was made with.
    """

    name: str
    media_type: str
    size: int
    details: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """A durable task.

    :param progress: in steps.
    :param queue_position: 1 for the next one to run; None for one that does not wait.
    :param seconds_left: until it is done, as far as the service can tell; 0 at its end.
    :param created_at: ISO 8601, UTC.
    :param error: why it failed; None for others.
    :param raw: the service's whole answer.
    """

    id: str
    operation: str
    state: TaskState
    progress: Progress
    queue_position: int | None
    seconds_left: float
    created_at: str
    pictures: tuple[TaskPicture, ...]
    error: DarkroomError | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("queued", "processing", "paused")
