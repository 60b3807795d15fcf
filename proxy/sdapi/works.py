"""What the callers of AUTOMATIC1111's API have under way in this process: its progress, and how it is stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

Result = TypeVar("Result")

_IDLE = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


@dataclass(kw_only=True, eq=False)
class Work:
    """One request.

    :ivar job: what it does: "txt2img", for example.
    :ivar parts: how many parts it has (batches, enlargements), of which `part` are done; of the one that runs `step` of
        `steps` are done.
    :ivar began: when it got a slot, by the monotonic clock; None while it waits for one.
    :ivar preview: PNG of the images as they are now.
    :ivar interrupted: set to stop all of it, and `skipped` to stop the batch that runs.
    """

    job: str
    parts: int
    part: int = 0
    step: int = 0
    steps: int = 0
    began: float | None = None
    preview: bytes | None = None
    created: datetime = field(default_factory=datetime.now)
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    skipped: asyncio.Event = field(default_factory=asyncio.Event)

    def begin_part(self, part: int, steps: int) -> None:
        """Note that another part runs."""
        self.began = time.monotonic() if self.began is None else self.began
        self.part, self.step, self.steps = part, 0, steps

    def note_steps(self, done: int, total: int) -> None:
        """Note how far the part is."""
        self.step, self.steps = done, total

    @property
    def progress(self) -> float:
        """The share that is done, 0..1."""
        of_part = min(self.step / self.steps, 1.0) if self.steps else 0.0
        return min((self.part + of_part) / max(self.parts, 1), 1.0)

    @property
    def seconds_left(self) -> float:
        """By the time that it has taken so far; 0 while that says nothing."""
        if self.began is None or not self.progress:
            return 0.0
        return (time.monotonic() - self.began) * (1 - self.progress) / self.progress

    def state(self) -> dict[str, Any]:
        """As the web UI shows it."""
        stopping = self.interrupted.is_set()
        return {
            "skipped": self.skipped.is_set(),
            "interrupted": stopping,
            "stopping_generation": stopping,
            "job": self.job,
            "job_count": self.parts,
            "job_timestamp": self.created.strftime("%Y%m%d%H%M%S"),
            "job_no": self.part,
            "sampling_step": self.step,
            "sampling_steps": self.steps,
        }


class Works:
    """The requests under way, by their callers."""

    def __init__(self) -> None:
        self._works: list[tuple[str, Work]] = []

    @contextmanager
    def under_way(self, caller: str, work: Work) -> Iterator[Work]:
        """Count a request as under way while the body runs."""
        entry = (caller, work)
        self._works.append(entry)
        try:
            yield work
        finally:
            self._works.remove(entry)

    def running(self, caller: str) -> list[Work]:
        """The caller's requests that run, the oldest first; if none runs, those that wait."""
        mine = [work for owner, work in self._works if owner == caller]
        return [work for work in mine if work.began is not None] or mine

    def interrupt(self, caller: str) -> None:
        """Stop what the caller has running; if nothing runs, what waits."""
        for work in self.running(caller):
            work.interrupted.set()

    def skip(self, caller: str) -> None:
        """Stop the batches that the caller has running; the requests go on with the next ones."""
        for work in self.running(caller):
            work.skipped.set()

    def progress(self, caller: str) -> tuple[dict[str, Any], bytes | None]:
        """The answer of `GET /sdapi/v1/progress` about the oldest running request, without its image; and that."""
        running = self.running(caller)
        if not running:
            return {"progress": 0.0, "eta_relative": 0.0, "state": dict(_IDLE), "textinfo": None}, None
        work = running[0]
        told = "Waiting for a free slot" if work.began is None else None
        answer = {"progress": work.progress, "eta_relative": work.seconds_left, "state": work.state(), "textinfo": told}
        return answer, work.preview


async def unless(stopped: asyncio.Event, job: Coroutine[Any, Any, Result]) -> Result | None:
    """Await `job`; cancel it when `stopped` is set, and return None then."""
    task, stop = asyncio.ensure_future(job), asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, stop):
            one.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)
