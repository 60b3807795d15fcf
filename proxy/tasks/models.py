"""What a task is."""

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
"""A task of a higher one is always first; clients take turns within each."""
EXCLUSIVE_LIMIT = 200
"""Characters of `Work.exclusive`."""
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an operation makes of a request: all that it needs to run, today or after a restart.

    :param fields: JSON can hold it. Nothing in it is left to chance: the same work makes the same results.
    :param files: images and the like, by a name of letters and underscores.
    :param steps: how many steps it will emit, as far as that is known now.
    :param kind, units, pictures: what its duration is measured by: seconds per unit and per image, for each kind by
        itself.
    :param exclusive: a key such as `session:abc`. Of the tasks with the same key one runs at a time, the others wait
        for it without a slot.
    :param exclusive_or_refuse: instead of waiting for another task with the key, it is refused with 409.
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
    :param lane: of its operation; see `proxy.tasks.lanes`.
    :param key: the client's Idempotency-Key, or None.
    :param digest: of what was sent, to tell a repetition from another request under the same key.
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


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as it is stored in the database.

    :param operation: the name of the operation that runs it: that of its model, if it is not the default model.
    :param requested_operation: the operation name that the client sent, if it differs from `operation`.
    :param lane: the tasks that it waits with; see `proxy.tasks.lanes`.
    :param source: where it came from, as far as that is known.
    :param order: where it is in the queue, the lowest first.
    :param newcomer: when it came its source had no other task, others had one for every slot, and nothing of a higher
        priority waited.
    :param exclusive: see `Work`.
    :param held: whether it waits, outside of the queue, for another task with the same key.
    :param run: name of the run that may write, or None.
    :param attempts: how often it was begun.
    :param bytes: of its files on the disk.
    :param step, steps: steps done, and in all.
    :param estimate: seconds that it takes alone, as others of its kind did before it was accepted.
    :param created_at, started_at, completed_at, expired_at: seconds since the epoch. It was started when the run that
        is under way, or that ended it, began.
    :param error: `{"code", "message", "param"}` of a failed one.
    :param results: `{"name", "media_type", "bytes", "details"}` of each file of a completed one, and `filename` where
        the operation named it.
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

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in UNFINISHED

    @property
    def share(self) -> float:
        """How much of it is done, 0..1."""
        if self.state == "completed":
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that an operation made, of any type.

    :param data: the content, or a file in the task's workspace, which becomes the result without being read.
    :param media_type: such as `image/png`, without parameters.
    :param details: what there is to know of it, for JSON.
    :param name: what the file is called when it is downloaded. By default it has the task's id and a number.
    :raises InvalidInput: the media type or the name is none.
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
"""Takes the steps that are done, the steps in all, and now and then a PNG of how far the image is."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What an operation works with when it runs.

    :param fields, files: of the `Work` that it made when the task was accepted.
    :param workspace: a folder of the task's own. What is there outlives restarts of the service, until the task has
        ended: an operation that keeps its progress there can resume. It may die at any moment, and the run after it
        finds what is there then, so a file has to be written under another name and renamed. With several proxies it
        is in the folder that they share.
    :param goes_on: asked when the run is cancelled: whether another one is to go on with the work, so that it is worth
        some seconds to save how far it is.
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
    """What one proxy knows of a lane besides what is in the database.

    :param slots: how many of its tasks run at a time in each proxy.
    :param had: of tasks that run here, the seconds of their work alone that are done.
    :param direct: the direct requests here that run, and those that wait.
    """

    slots: int
    had: Mapping[str, float] = field(default_factory=dict)
    direct: tuple[Sequence[Direct], Sequence[Direct]] = ((), ())


@dataclass(frozen=True, kw_only=True)
class QueueEstimate:
    """Of one lane: what runs, and what waits in the order in which it will run; direct requests are among both.

    :param expected: what will probably come behind them.
    :param slots: how many run at a time, on all machines together.
    :param gain: see `proxy.load.shares`.
    :param machines: proxies that run tasks of this queue.
    """

    running: list[QueuedJob]
    queue: list[QueuedJob]
    expected: list[QueuedJob] = field(default_factory=list)
    slots: int
    gain: float = 0.0
    machines: int = 1

    @cached_property
    def waiting(self) -> list[str]:
        """The ids of the tasks that wait."""
        return [job.id for job in self.queue if job.id]

    @cached_property
    def forecast(self) -> Forecast:
        """When all of them end."""
        ahead = [*self.queue, *(replace(job, id="") for job in self.expected)]
        return forecast(self.running, ahead, slots=self.slots, gain=self.gain, machines=self.machines)

    def position(self, id: str) -> int | None:
        """1 for the next one; None for one that does not wait."""
        return next((k for k, one in enumerate(self.waiting, 1) if one == id), None)

    def seconds_until_done(self, task: Task) -> float:
        """The best estimate at this moment."""
        if task.ended:
            return 0.0
        return self.forecast.ends.get(task.id, task.estimate) + (START_SECONDS if task.state == "queued" else 0.0)

    def seconds_until_room(self, count: int) -> float:
        """Seconds until that number of them have ended."""
        moments = self.forecast.moments
        return moments[min(count, len(moments)) - 1] if moments else 0.0


QueueEstimates = Mapping[str, QueueEstimate]
"""By the names of the lanes."""
