"""What a task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    :param kind, units: what its duration is measured by: seconds per unit, for each kind by itself.
    """

    fields: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    steps: int
    kind: str
    units: float


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
    :param rank: place in the queue, the lowest first.
    :param newcomer: when it came its source had no other task, others had one for every place, and nothing of a higher
        priority waited.
    :param run: name of the run that may write, or None.
    :param attempts: how often it was begun.
    :param bytes: of its files on the disk.
    :param step, steps: steps done, and in all.
    :param estimate: seconds that it takes by itself, as measured on others of its kind.
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
    rank: int
    newcomer: bool | None
    run: str | None
    attempts: int
    step: int
    steps: int
    kind: str
    units: float
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


Tell = Callable[[int, int, "bytes | None"], None]
"""Told of steps done, steps in all, and now and then a PNG of how far the picture is."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What lies before the tasks that wait, in the order in which they will run.

    :param waiting: id and estimate (seconds) of each.
    :param running: seconds that are left of those that run, in sum.
    :param places: how many run at a time.
    """

    waiting: list[tuple[str, float]]
    running: float
    places: int

    def position(self, id: str) -> int | None:
        """1 for the next one; None for one that does not wait."""
        return next((k for k, (one, _) in enumerate(self.waiting, 1) if one == id), None)

    def seconds_until_done(self, task: Task) -> float:
        """As far as one can tell: what is before it, spread over the places, and the task itself."""
        if task.state != "queued":
            return 0.0 if task.ended else task.estimate * (1 - task.share)
        before = self.running
        for one, estimate in self.waiting:
            if one == task.id:
                break
            before += estimate
        return before / self.places + task.estimate
