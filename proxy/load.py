"""Tracks the running jobs and the share of the machine that each had. Without it, a job that ran beside seven others
would count as eight times as long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

_SMOOTHING = 0.3
GAIN_RANGE = (-0.3, 0.9)


class Sharing(Protocol):
    """The properties that decide which share of the machine a job gets.

    :ivar group: jobs of one group call the same networks; "" = not known.
    :ivar turn: seconds of one of its steps alone; 0 = not known.
    """

    @property
    def group(self) -> str: ...
    @property
    def turn(self) -> float: ...


def shares(jobs: Sequence[Sharing], gain: float, machines: int = 1) -> list[float]:
    """Return the speed of each job while all of them run: seconds of its work, as if it ran alone, per second.

    Groups share the machine equally. Within a group all jobs take one step per round, so jobs with long steps get
    more of it. Together, n jobs do n^gain times the work of one.

    :param gain: 0 = none; above 0 where batches or idle cores make n jobs cheaper than n times one.
    :param machines: number of machines, among which the jobs are divided equally.
    """
    if not jobs:
        return []
    members: dict[str, list[Sharing]] = {}
    for job in jobs:
        members.setdefault(job.group, []).append(job)
    per_group = machines * max(1.0, len(jobs) / machines) ** gain / len(members)
    sums: dict[str, tuple[float, float]] = {}
    for group, those in members.items():
        known = [job.turn for job in those if job.turn > 0]
        usual = sum(known) / len(known) if known else 1.0
        sums[group] = usual, sum(job.turn or usual for job in those)
    return [min(1.0, per_group * (job.turn or sums[job.group][0]) / sums[job.group][1]) for job in jobs]


@dataclass(kw_only=True, eq=False)
class Running:
    """A running job.

    :ivar id: of its task; "" for a direct request.
    :ivar had: seconds of its work alone that are done.
    :ivar company: the logarithm of the number of running jobs, integrated over time.
    """

    began: float
    id: str = ""
    group: str = ""
    turn: float = 0.0
    had: float = 0.0
    company: float = 0.0

    def mean_company(self, now: float) -> float:
        """The mean logarithm of the number of running jobs."""
        return self.company / (now - self.began) if now > self.began else 0.0


@dataclass(frozen=True, kw_only=True)
class Used:
    """The measured cost of a job.

    :ivar seconds: of its work, as if it had run alone.
    :ivar company: the mean logarithm of the number of running jobs, itself included; 0 for a job that ran alone.
    """

    seconds: float
    company: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Direct:
    """A running direct request, and the seconds that are probably left of its work, as if it ran alone."""

    group: str
    left: float
    turn: float = 0.0


CURRENT: ContextVar[Running | None] = ContextVar("current_job", default=None)
"""The job of the current context."""


class Load:
    """The running jobs of this process. All methods are called on its event loop.

    :param clock: seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = clock()
        self._jobs: list[Running] = []
        self._usual: dict[str, float] = {}  # of direct requests, seconds alone by group
        self.seconds: float | None = None
        """Moving average of the time that a job holds its slot; None before the first one has ended."""
        self.gain = 0.0

    @contextmanager
    def job(self) -> Iterator[Running]:
        """Count a job while the body runs; there it is `CURRENT`."""
        self._tick()
        job = Running(began=self._now)
        self._jobs.append(job)
        CURRENT.set(job)
        try:
            yield job
        finally:
            if CURRENT.get() is job:
                CURRENT.set(None)
            self._tick()
            self._jobs.remove(job)
            self._note(job)

    def _note(self, job: Running) -> None:
        held = self._now - job.began
        self.seconds = held if self.seconds is None else self.seconds + _SMOOTHING * (held - self.seconds)
        if not job.id:
            usual = self._usual.setdefault(job.group, job.had)
            self._usual[job.group] = usual + _SMOOTHING * (job.had - usual)

    def describe(self, job: Running, *, id: str, group: str, turn: float) -> None:
        """Set the properties of a job once they are known. The time before does not count."""
        self._tick()
        job.id, job.group, job.turn = id, group, turn
        job.began, job.had, job.company = self._now, 0.0, 0.0

    def calls(self, group: str) -> None:
        """Note that the current job calls these networks."""
        job = CURRENT.get()
        if job is not None and job.group != group:
            self._tick()
            job.group = group

    def used(self, job: Running) -> Used:
        """Return the cost of a job so far."""
        self._tick()
        return Used(seconds=job.had, company=job.mean_company(self._now))

    def expected_seconds(self) -> float:
        """Return the expected time that a job holds its slot: the average, and at least that of the running jobs."""
        self._tick()
        ages = [self._now - job.began for job in self._jobs]
        return max(self.seconds or 1.0, sum(ages) / len(ages) if ages else 0.0)

    def had(self) -> dict[str, float]:
        """For each running task of this proxy, the seconds of its work that are done, as if it ran alone."""
        self._tick()
        return {job.id: job.had for job in self._jobs if job.id}

    def direct(self, queued: int) -> tuple[list[Direct], list[Direct]]:
        """Return the running direct requests, and as many usual ones as are queued."""
        self._tick()
        usual = sum(self._usual.values()) / len(self._usual) if self._usual else 1.0
        running = [
            Direct(group=job.group, turn=job.turn, left=max(own - job.had, own / 4))
            for job in self._jobs
            if not job.id
            for own in [self._usual.get(job.group, usual)]
        ]
        group = max(self._usual, key=lambda name: self._usual[name], default="")
        return running, [Direct(group=group, left=usual)] * queued

    def _tick(self) -> None:
        """Credit each job with its share of the time since the last change."""
        now = self._clock()
        passed, self._now = now - self._now, now
        if passed <= 0 or not self._jobs:
            return
        company = math.log(len(self._jobs))
        for job, share in zip(self._jobs, shares(self._jobs, self.gain), strict=True):
            job.had += passed * share
            job.company += passed * company
