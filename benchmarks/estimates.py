"""Estimates of durable tasks against what they took, and whether a refused client finds room when it is told to."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import psutil

from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.local import photo
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.service import RunningService
from benchmarks.timing import percentile

FACTOR = 1.5
TARGET = 0.9
BURSTS = (5, 20, 5, 40)
QUICK_BURSTS = (5, 10)
_UPSCALER = "animevideov3"
_STEPS = (4, 8, 20, 30, 50)
_SIDES = (64, 128, 128, 192)
_PHOTOS = (64, 128, 192, 256)
_POLL_SECONDS = 0.1
_MOST_SECONDS = 600
_FILLER = {"operation": "generate", "prompt": "a cat", "steps": 20, "width": 64, "height": 64}
_REFUSED_CLIENTS = 24
_TRIES = 5

Task = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What was said of a task and what it took, in seconds.

    :param said, took: at its acceptance, and until its end.
    :param said_later, took_later: when all of its burst were accepted; 0 for one that had ended by then.
    """

    case: str
    said: float
    took: float
    said_later: float = 0.0
    took_later: float = 0.0

    @property
    def ratio(self) -> float:
        """Said over taken, at its acceptance."""
        return self.said / self.took

    @property
    def later_ratio(self) -> float | None:
        """The same when the burst was in; None for one that had nearly ended."""
        return self.said_later / self.took_later if self.took_later > _POLL_SECONDS else None


def run(context: Context) -> Section:
    """Tasks one at a time and in bursts, then more clients than the queue has room for."""
    return asyncio.run(_run(context))


async def _run(context: Context) -> Section:
    draw = random.Random(7)
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=context.service.url, timeout=None, trust_env=False, limits=limits) as http:
        warm_up = _warm_up() * context.choose(2, 1)
        context.stage("tasks, to warm up", len(warm_up))
        for done, request in enumerate(warm_up):
            await _burst(http, [request], "warm-up")
            context.step(done + 1)
        guesses: list[Guess] = []
        busy = _Busy(context.service)
        singles = context.choose(16, 4)
        context.stage("tasks, one at a time", singles)
        for done in range(singles):
            guesses += await _burst(http, [_request(draw, done)], "one at a time")
            context.step(done + 1)
        for count in QUICK_BURSTS if context.quick else BURSTS:
            context.stage(f"a burst of {count} tasks")
            guesses += await _burst(http, [_request(draw, k) for k in range(count)], f"bursts of {count}")
        others = busy.others()
        context.stage("more clients than the queue has room for")
        returns = await _overload(http, context)
    return _section(guesses, returns, others)


def _warm_up() -> list[Task]:
    """Tasks of several kinds, as a service has seen that is not new."""
    made = [_generate(side, steps) for side in sorted(set(_SIDES)) for steps in (4, 20)]
    return [*made, *(_upscale(side) for side in (64, 192))]


def _request(draw: random.Random, number: int) -> Task:
    """A task of the mix: client and priority besides its fields."""
    task = (
        _upscale(draw.choice(_PHOTOS)) if draw.random() < 0.25 else _generate(draw.choice(_SIDES), draw.choice(_STEPS))
    )
    if "files" not in task and draw.random() < 0.2:
        task["data"]["num_images"] = 2
    task["headers"] = {"X-API-Key": f"client {number % 2}"}
    task["data"]["priority"] = draw.choices(("high", "normal", "low"), (1, 8, 1))[0]
    return task


def _generate(side: int, steps: int) -> Task:
    (job,) = make_jobs(1, steps=steps, side=side)
    return {"data": {"operation": "generate", **job.body()}}


def _upscale(side: int) -> Task:
    return {"data": {"operation": "upscale", "model": _UPSCALER}, "files": {"file": ("photo.png", photo(side))}}


async def _post(http: httpx.AsyncClient, task: Task) -> httpx.Response:
    """`POST /tasks`: a form with a file, else JSON."""
    given = {"headers": task.get("headers", {})}
    if "files" in task:
        return await http.post("/tasks", data=task["data"], files=task["files"], **given)
    return await http.post("/tasks", json=task["data"], **given)


async def _burst(http: httpx.AsyncClient, requests: Sequence[Task], case: str) -> list[Guess]:
    """Send all, one right after the other; ask for all once more; wait for their ends."""
    accepted = [(await _post(http, request)).raise_for_status().json() for request in requests]
    ids = [str(task["task_id"]) for task in accepted]
    asked_at, later = time.time(), await asyncio.gather(*(_task(http, id) for id in ids))
    ended = [await _ended(http, id) for id in ids]
    return [
        Guess(
            case=case,
            said=before["estimated_time"],
            took=_moment(after, "completed_at") - _moment(after, "created_at"),
            said_later=between["estimated_time"],
            took_later=max(0.0, _moment(after, "completed_at") - asked_at),
        )
        for before, between, after in zip(accepted, later, ended, strict=True)
    ]


async def _task(http: httpx.AsyncClient, id: str) -> Task:
    task: Task = (await http.get(f"/tasks/{id}")).raise_for_status().json()
    return task


async def _ended(http: httpx.AsyncClient, id: str) -> Task:
    deadline = time.monotonic() + _MOST_SECONDS
    while (task := await _task(http, id))["status"] in ("queued", "processing"):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"a task did not end in {_MOST_SECONDS} s")
        await asyncio.sleep(_POLL_SECONDS)
    if task["status"] != "completed":
        raise BenchmarkError(f"a task ended as {task['status']}: {task['error']}")
    return task


def _moment(task: Task, name: str) -> float:
    return datetime.fromisoformat(task[name]).timestamp()


@dataclass(frozen=True, kw_only=True)
class Return:
    """A client that was refused and came again when it was told to.

    :param seconds: it was told to wait.
    :param room: whether there was room.
    """

    seconds: int
    room: bool


async def _overload(http: httpx.AsyncClient, context: Context) -> list[Return]:
    """Fill the queue; then clients that are refused come again at their time, and no others come. What is left is
    cancelled."""
    status = (await http.get("/status")).raise_for_status().json()
    room = int(status["max_queue_size"]) + int(status["max_concurrent_tasks"])
    ids: list[str] = []
    while (answer := await http.post("/tasks", json=_FILLER)).status_code == 202:
        ids.append(answer.json()["task_id"])
        if len(ids) > 10 * room:
            raise BenchmarkError("the queue takes tasks faster than they can be sent")
    returns: list[Return] = []

    async def client() -> None:
        wait: int | None = None
        for _ in range(_TRIES):
            answer = await http.post("/tasks", json=_FILLER)
            full = answer.status_code == 429
            if wait is not None:
                returns.append(Return(seconds=wait, room=not full))
            if not full:
                ids.append(answer.raise_for_status().json()["task_id"])
                return
            wait = int(answer.headers["Retry-After"])
            await asyncio.sleep(wait)

    await asyncio.gather(*(client() for _ in range(context.choose(_REFUSED_CLIENTS, 8))))
    await _each(ids, lambda id: http.delete(f"/tasks/{id}"))  # 409 for one that has ended
    return returns


async def _each(ids: Sequence[str], work: Callable[[str], Awaitable[object]]) -> None:
    for id in ids:
        await work(id)


def within(ratios: Sequence[float], factor: float = FACTOR) -> float:
    """The share of ratios that are off by no more than that factor, to either side."""
    return sum(1 / factor <= ratio <= factor for ratio in ratios) / len(ratios)


class _Busy:
    """Who has the processor from now on."""

    def __init__(self, service: RunningService) -> None:
        self._service = service
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Seconds of all cores, those with work, and those of the service and of this process."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        ours = sum(self._service.cpu().values()) + time.process_time()
        return sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0), idle, ours

    def others(self) -> float:
        """The share of the processor that other programs had."""
        total, idle, ours = (now - before for now, before in zip(self._now(), self._began, strict=True))
        return max(0.0, total - idle - ours) / total


def _section(guesses: Sequence[Guess], returns: Sequence[Return], others: float) -> Section:
    later = [guess.later_ratio for guess in guesses if guess.later_ratio is not None]
    findings = [
        _share(f"estimates within a factor of {FACTOR:g}, once all of a burst were sent", later, target=TARGET),
        _share(f"estimates within a factor of {FACTOR:g}, at acceptance", [guess.ratio for guess in guesses]),
    ]
    tables = [_table(guesses, others)]
    if returns:
        found = sum(one.room for one in returns)
        findings.append(
            Finding(
                name="refused clients that found room after Retry-After",
                value=found / len(returns),
                unit="of 1",
                rounds=len(returns),
                target=TARGET,
                at_least=True,
            )
        )
        waits = sorted(one.seconds for one in returns)
        row: tuple[Cell, ...] = (len(returns), waits[0], statistics.median(waits), waits[-1], found)
        columns = ("refused", "shortest s", "median s", "longest s", "found room")
        tables.append(Table(title="Retry-After of a full queue", columns=columns, rows=(row,)))
    return Section(name="estimates", title="Estimates of tasks", findings=tuple(findings), tables=tuple(tables))


def _share(name: str, ratios: Sequence[float], target: float | None = None) -> Finding:
    return Finding(name=name, value=within(ratios), unit="of 1", rounds=len(ratios), target=target, at_least=True)


def _table(guesses: Sequence[Guess], others: float) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for case in dict.fromkeys(guess.case for guess in guesses):
        those = [guess for guess in guesses if guess.case == case]
        views = {
            "at acceptance": [guess.ratio for guess in those],
            "burst sent": [guess.later_ratio for guess in those if guess.later_ratio is not None],
        }
        for view, ratios in views.items():
            if ratios and not (view == "burst sent" and case == "one at a time"):
                took = statistics.median(guess.took for guess in those)
                spread = (percentile(ratios, percent) for percent in (10, 50, 90))
                rows.append((case, view, len(ratios), took, *spread, within(ratios)))
    return Table(
        title="Said over taken",
        columns=("case", "asked", "tasks", "took s (p50)", "p10", "p50", "p90", f"within {FACTOR:g}"),
        rows=tuple(rows),
        note="Two clients and three priorities; what comes later and goes first is known to no estimate at acceptance. "
        f"Other programs had {others:.0%} of the processor: what they take, and give back, is known to none at all.",
    )
