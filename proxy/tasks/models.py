"""The types of tasks, of their drafts and results, and of queue estimates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from darkroom.errors import InvalidInput
from proxy.load import Direct
from proxy.tasks.estimates import Forecast, QueuedJob, forecast

if TYPE_CHECKING:
    from proxy.services import Services

State = Literal["queued", "processing", "paused", "completed", "failed", "cancelled"]
LIVE: tuple[State, ...] = ("queued", "processing")
UNFINISHED: tuple[State, ...] = (*LIVE, "paused")
"""A paused task waits for its client; it takes no place in the queue, and keeps its key and its workspace."""
STATES: tuple[State, ...] = (*UNFINISHED, "completed", "failed", "cancelled")
PRIORITIES = ("high", "normal", "low")
"""Tasks of a higher priority always come first; within a priority clients take turns."""
EXCLUSIVE_LIMIT = 200
"""Maximum number of characters in `Work.exclusive`."""
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A request in the form that its operation needs to run it, also after a restart.

    :param fields: valid for JSON, and complete: the same work makes the same results.
    :param files: files such as images, by a name of letters and underscores.
    :param steps: the expected number of steps.
    :param kind, units, pictures: the kind of work, and its size in units and images. Speeds (seconds per unit and per
        image) are measured for each kind separately.
    :param exclusive: a key such as `session:abc`. Tasks with the same key run one at a time; the others wait for it
        without a slot.
    :param exclusive_or_refuse: refuse the task with 409, instead of letting it wait for another task with the key.
    :param warnings: for the answer to the request; they are not kept.
    :raises InvalidInput: the key is empty or too long.
    """

    fields: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    steps: int
    kind: str
    units: float
    pictures: int = 1
    exclusive: str | None = None
    exclusive_or_refuse: bool = False
    warnings: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.exclusive is not None and not 1 <= len(self.exclusive) <= EXCLUSIVE_LIMIT:
            raise InvalidInput(
                f"exclusive must have 1 to {EXCLUSIVE_LIMIT} characters; got {len(self.exclusive)}.", param="exclusive"
            )


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A task to be accepted.

    :param id: a UUID.
    :param operation: the name of the operation that runs it.
    :param requested_operation: the operation name that the client sent; None if it is `operation`.
    :param client: the client that sent it and owns it.
    :param source: where the request came from; sources take turns. None: the client itself.
    :param lane: the lane of its operation; see `proxy.tasks.lanes`.
    :param key: the client's Idempotency-Key, or None.
    :param digest: the hash of the request, to distinguish a repetition from another request with the same key.
    :param traceparent: the span of the request; "" where it is not traced.
    """

    id: str
    operation: str
    client: str
    priority: str
    key: str | None
    digest: str
    work: Work
    source: str | None = None
    lane: str = "images"
    requested_operation: str | None = None
    traceparent: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as it is stored in the database.

    :param operation: the name of the operation that runs it: that of its model, if it is not the default model.
    :param requested_operation: the operation name that the client sent, if it differs from `operation`.
    :param lane: the lane of its operation; see `proxy.tasks.lanes`.
    :param source: where the request came from; None for the client itself.
    :param order: its order in the queue, lowest first.
    :param newcomer: whether, when it was accepted, its source had no other task, others had one for every slot, and no
        task of a higher priority waited.
    :param exclusive: see `Work`.
    :param held: whether it waits, outside of the queue, for another task with the same key.
    :param run: the name of the run that may write, or None.
    :param attempts: number of runs that were started.
    :param bytes: size of its files on the disk.
    :param step, steps: steps done, and steps in total.
    :param estimate: seconds that it takes alone, estimated from tasks of its kind when it was accepted.
    :param created_at, started_at, completed_at, expired_at: seconds since the epoch; `started_at` is the start of the
        present or last run.
    :param error: `{"code", "message", "param"}` of a failed task.
    :param results: `{"name", "media_type", "bytes", "details"}` of each file of a completed task, and `filename` if the
        operation named it.
    :param traceparent: the span of the request that it was accepted from; "" where that was not traced.
    """

    id: str
    operation: str
    requested_operation: str | None
    lane: str
    client: str
    priority: str
    state: State
    source: str | None
    order: int
    newcomer: bool | None
    exclusive: str | None
    held: bool
    run: str | None
    attempts: int
    step: int
    steps: int
    kind: str
    units: float
    pictures: int
    estimate: float
    digest: str
    fields: dict[str, Any]
    files: list[str]
    bytes: int
    created_at: float
    started_at: float | None
    completed_at: float | None
    expired_at: float | None
    error: dict[str, Any] | None
    results: list[dict[str, Any]]
    traceparent: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.state not in UNFINISHED

    @property
    def share(self) -> float:
        """The share of its steps that is done, 0..1."""
        if self.state == "completed":
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that an operation made, of any type.

    :param data: the content, or a file in the task's workspace, which becomes the result without being read.
    :param media_type: such as `image/png`, without parameters.
    :param details: facts about it, valid for JSON.
    :param name: the file name for downloads; by default the task's id and a number.
    :raises InvalidInput: the media type or the name is invalid.
    """

    data: bytes | memoryview | Path
    media_type: str
    details: dict[str, Any] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise InvalidInput(f"media_type must be like image/png; got {self.media_type[:80]!r}.", param="media_type")
        if self.name is not None and not _FILE_NAME.fullmatch(self.name):
            raise InvalidInput(
                "name must be 1 to 100 letters, digits, '.', '_' and '-', the first one a letter, a digit or '_'; "
                f"got {self.name[:80]!r}.",
                param="name",
            )


Emit = Callable[[int, int, "bytes | None"], None]
"""Called with the number of steps done, the number of steps in total, and sometimes a preview as PNG."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """The arguments of an operation that runs a task.

    :param fields, files: those of the `Work` that the operation made when the task was accepted.
    :param workspace: the task's own folder. Files in it are kept over restarts of the service until the task has ended,
        so an operation can store its progress there and resume. A run may be killed at any moment, and the next run
        finds the folder in that state: write files under another name and rename them. With several proxies the
        workspace is in the folder that they share.
    :param goes_on: called when the run is cancelled. True if another run will continue the work, so that it is worth
        some seconds to save the progress.
    """

    services: Services
    fields: Mapping[str, Any]
    files: Mapping[str, bytes]
    workspace: Path
    emit: Emit
    goes_on: Callable[[], bool] = field(default=lambda: False)


START_SECONDS = 0.2
"""Seconds from acceptance to start on an idle service (half a polling interval), and for writing the results."""


@dataclass(frozen=True, kw_only=True)
class LaneLoad:
    """The state of a lane in one proxy that is not in the database.

    :param slots: number of its tasks that each proxy runs at a time.
    :param had: the finished part of the demand of each task that runs here, in seconds.
    :param direct: the direct requests of this proxy: those that run, and those that wait.
    """

    slots: int
    had: Mapping[str, float] = field(default_factory=dict)
    direct: tuple[Sequence[Direct], Sequence[Direct]] = ((), ())


@dataclass(frozen=True, kw_only=True)
class QueueEstimate:
    """The running and the waiting jobs of one lane, the latter in the order in which they will run. Direct requests are
    included.

    :param expected: jobs that will probably arrive after them.
    :param slots: number of jobs that run at a time, on all machines together.
    :param gain: see `proxy.load.shares`.
    :param machines: number of proxies that run tasks of this queue.
    """

    running: list[QueuedJob]
    queue: list[QueuedJob]
    expected: list[QueuedJob] = field(default_factory=list)
    slots: int
    gain: float = 0.0
    machines: int = 1

    @cached_property
    def waiting(self) -> list[str]:
        """The ids of the waiting tasks."""
        return [job.id for job in self.queue if job.id]

    @cached_property
    def forecast(self) -> Forecast:
        """When these jobs end."""
        ahead = [*self.queue, *(replace(job, id="") for job in self.expected)]
        return forecast(self.running, ahead, slots=self.slots, gain=self.gain, machines=self.machines)

    def position(self, id: str) -> int | None:
        """The position of a task in the queue, 1 for the next one; None if it does not wait."""
        return next((k for k, one in enumerate(self.waiting, 1) if one == id), None)

    def seconds_until_done(self, task: Task) -> float:
        """Estimate of the seconds until a task has ended."""
        if task.ended:
            return 0.0
        return self.forecast.ends.get(task.id, task.estimate) + (START_SECONDS if task.state == "queued" else 0.0)

    def seconds_until_room(self, count: int) -> float:
        """Estimate of the seconds until `count` jobs have ended."""
        moments = self.forecast.moments
        return moments[min(count, len(moments)) - 1] if moments else 0.0


QueueEstimates = Mapping[str, QueueEstimate]
"""The estimates of all lanes, by their names."""
