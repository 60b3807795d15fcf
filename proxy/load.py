"""What works at the moment, and how much of the machine each job had: without it, a job that ran beside seven others
would pass for one that is eight times as long."""

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
    """What decides how much of the machine a job gets.

    :ivar group: jobs of one group call the same networks; "" = not known.
    :ivar turn: seconds of one of its steps alone; 0 = not known.
    """

    @property
    def group(self) -> str: ...
    @property
    def turn(self) -> float: ...


def shares(jobs: Sequence[Sharing], gain: float, machines: int = 1) -> list[float]:
    """How fast each of the jobs goes while all of them run, in seconds of the job alone per second.

    Groups have the machine in equal parts. In a group all jobs take a step in each round, so that long steps take more
    of it. Together, n jobs do n^gain times the work of one.

    :param gain: 0 = none; above 0 where batches or idle cores make n jobs cheaper than n times one.
    :param machines: which have the jobs in equal parts.
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
    """A job at work.

    :ivar id: of its task; "" for a direct request.
    :ivar had: seconds of its work alone that are done.
    :ivar company: the logarithm of how many ran, integrated over the time.
    """

    began: float
    id: str = ""
    group: str = ""
    turn: float = 0.0
    had: float = 0.0
    company: float = 0.0

    def mean_company(self, now: float) -> float:
        """The logarithm of how many ran, on average."""
        return self.company / (now - self.began) if now > self.began else 0.0


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a job took.

    :ivar seconds: of its work alone: what of the machine it had.
    :ivar company: the logarithm of how many ran beside it, itself counted; 0 for one that was alone.
    """

    seconds: float
    company: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Direct:
    """A direct request that runs: what is probably left of it, in seconds of its work alone."""

    group: str
    left: float
    turn: float = 0.0


CURRENT: ContextVar[Running | None] = ContextVar("current_job", default=None)
"""The job that the code at hand works for."""


class Load:
    """The jobs at work in this process. Everything happens on its event loop.

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
        """A job that works while the body runs; `CURRENT` there."""
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
        """Say what a job is, once that is known. What it had before does not count."""
        self._tick()
        job.id, job.group, job.turn = id, group, turn
        job.began, job.had, job.company = self._now, 0.0, 0.0

    def calls(self, group: str) -> None:
        """The code at hand calls those networks for its job."""
        job = CURRENT.get()
        if job is not None and job.group != group:
            self._tick()
            job.group = group

    def used(self, job: Running) -> Used:
        """What it took until now."""
        self._tick()
        return Used(seconds=job.had, company=job.mean_company(self._now))

    def expected_seconds(self) -> float:
        """How long a job holds its slot: what was seen, and at least as long as those at work have theirs."""
        self._tick()
        ages = [self._now - job.began for job in self._jobs]
        return max(self.seconds or 1.0, sum(ages) / len(ages) if ages else 0.0)

    def had(self) -> dict[str, float]:
        """For each running task of this proxy, the seconds of its work that are done, as if it ran alone."""
        self._tick()
        return {job.id: job.had for job in self._jobs if job.id}

    def direct(self, queued: int) -> tuple[list[Direct], list[Direct]]:
        """The direct requests at work, and as many that wait."""
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
        """Give each job its part of the time since the last change."""
        now = self._clock()
        passed, self._now = now - self._now, now
        if passed <= 0 or not self._jobs:
            return
        company = math.log(len(self._jobs))
        for job, share in zip(self._jobs, shares(self._jobs, self.gain), strict=True):
            job.had += passed * share
            job.company += passed * company
