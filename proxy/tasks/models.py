"""What a task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from proxy.tasks.estimates import Forecast, Job, forecast

State = Literal["queued", "processing", "completed", "failed", "cancelled"]
LIVE: tuple[State, ...] = ("queued", "processing")
STATES: tuple[State, ...] = (*LIVE, "completed", "failed", "cancelled")
PRIORITIES = ("high", "normal", "low")
"""A task of a higher one is always first; clients take turns within each."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an operation makes of a request: all that it needs to run, today or after a restart.

    :param fields: JSON can hold it. Nothing is left to be drawn: the same work makes the same pictures.
    :param files: pictures and the like, by a name of letters and underscores.
    :param steps: how many steps it will tell of, as far as that is known now.
    :param kind, units, pictures: what its duration is measured by: seconds per unit and per picture, for each kind by
        itself.
    """

    fields: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    steps: int
    kind: str
    units: float
    pictures: int = 1


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A task to be accepted.

    :param id: a UUID.
    :param client: who sent it, and owns it.
    :param source: where it came from; sources take turns. None: the client itself.
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


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as the database has it.

    :param source: where it came from, as far as that is known.
    :param order: where it is in the queue, the lowest first.
    :param newcomer: when it came its source had no other task, others had one for every slot, and nothing of a higher
        priority waited.
    :param run: name of the run that may write, or None.
    :param attempts: how often it was begun.
    :param bytes: of its files on the disk.
    :param step, steps: steps done, and in all.
    :param estimate: seconds that it takes alone, as others of its kind did before it was accepted.
    :param created_at, started_at, completed_at, expired_at: seconds since the epoch. It was started when the run that
        is under way, or that ended it, began.
    :param error: `{"code", "message", "param"}` of a failed one.
    :param results: `{"name", "media_type", "bytes", "details"}` of each picture of a completed one.
    """

    id: str
    operation: str
    client: str
    priority: str
    state: State
    source: str | None
    order: int
    newcomer: bool | None
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
        return self.state not in LIVE

    @property
    def share(self) -> float:
        """How much of it is done, 0..1."""
        if self.state == "completed":
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A picture that an operation made.

    :param details: what there is to know of it, for JSON.
    """

    data: memoryview
    media_type: str
    details: dict[str, Any]


Emit = Callable[[int, int, "bytes | None"], None]
"""Told of steps done, steps in all, and now and then a PNG of how far the picture is."""


START_SECONDS = 0.2
"""From the acceptance to the start on an idle service (half a look of the queue), and to write the results."""


@dataclass(frozen=True, kw_only=True)
class QueueEstimate:
    """What runs, and what waits in the order in which it will run; direct requests are among both.

    :param expected: what will probably come behind them.
    :param slots: how many run at a time, on all machines together.
    :param gain: see `proxy.load.shares`.
    :param machines: proxies that run tasks of this queue.
    """

    running: list[Job]
    queue: list[Job]
    expected: list[Job] = field(default_factory=list)
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
        """As far as one can tell."""
        if task.ended:
            return 0.0
        return self.forecast.ends.get(task.id, task.estimate) + (START_SECONDS if task.state == "queued" else 0.0)

    def seconds_until_room(self, count: int) -> float:
        """Until so many of them have ended."""
        moments = self.forecast.moments
        return moments[min(count, len(moments)) - 1] if moments else 0.0
