"""Small requests beside a client that sends a great deal: how much longer than alone they take.

The two clients have addresses of their own, 127.0.0.1 and 127.0.0.2, because clients take turns by address.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import httpx

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.local import photo
from benchmarks.processes import Server
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.timing import timed

UPSCALE_TARGET, GENERATE_TARGET = 3.0, 6.0
_MODEL = "x4plus"
_LARGE, _SMALL = 512, 64
_HEAD_START = 1.0
_REQUESTS, _LONG, _SHORT, _SIDE = 40, 50, 4, 128
_NEWCOMER = "127.0.0.2"
_PLACES = 8
_BEGIN_SECONDS = 120.0

Busy = Callable[[Server], contextlib.AbstractContextManager[None]]


def run(context: Context) -> Section:
    """A small upscale beside a large one, and a 4-step job beside 40 of 50 steps: their time over that alone."""
    small, short = _upscale(context.service), _generate(context.service)
    cases: list[tuple[str, Callable[[], float], Busy, float]] = [
        (f"{_SMALL}-pixel upscale beside one of {_LARGE} pixels ({_MODEL})", small, _large_upscale, UPSCALE_TARGET),
        (f"{_SHORT} steps beside {_REQUESTS} direct requests of {_LONG}", short, _direct, GENERATE_TARGET),
        (f"{_SHORT} steps beside {_REQUESTS} tasks of {_LONG} under one key", short, _one_key, GENERATE_TARGET),
        (f"{_SHORT} steps beside {_REQUESTS} tasks of {_LONG} under as many keys", short, _keys, GENERATE_TARGET),
    ]
    samples = context.choose(8, 2)
    findings: list[Finding] = []
    rows: list[tuple[Cell, ...]] = []
    for name, once, busy, target in cases:
        context.stage(name, 2 * samples)
        once()
        alone = [once() for _ in range(samples)]
        context.step(samples)
        beside: list[float] = []
        while len(beside) < samples:
            with busy(context.service):
                beside += [once() for _ in range(min(samples - len(beside), 4))]
            context.step(samples + len(beside))
        ratio = statistics.median(beside) / statistics.median(alone)
        findings.append(Finding(name=name, value=ratio, rounds=samples, target=target))
        rows.append((name, statistics.median(alone), statistics.median(beside), max(beside), ratio))
    table = Table(
        title="Seconds of a small request",
        columns=("case", "alone", "beside, median", "beside, longest", "ratio of the medians"),
        rows=tuple(rows),
        note=f"Text to image at {_SIDE}x{_SIDE}. Those who send much and those who send little have other addresses.",
    )
    return Section(name="fairness", title="Small requests beside many", findings=tuple(findings), tables=(table,))


def _upscale(server: Server) -> Callable[[], float]:
    data = photo(_SMALL, left=180, top=40)

    def once() -> float:
        with Rest(server, address=_NEWCOMER) as rest:
            return timed(lambda: rest.upscale(data, _MODEL, tile=None))()

    return once


def _generate(server: Server) -> Callable[[], float]:
    body = make_jobs(2, steps=_SHORT, side=_SIDE)[1].body()

    def once() -> float:
        with Rest(server, address=_NEWCOMER) as rest:
            return timed(lambda: rest.generate(body))()

    return once


@contextlib.contextmanager
def _large_upscale(server: Server) -> Iterator[None]:
    files = {"file": ("photo.png", photo(_LARGE))}
    with _sending(server, [{"url": "/api/upscale", "files": files, "data": {"model": _MODEL}}]):
        time.sleep(_HEAD_START)
        yield


@contextlib.contextmanager
def _direct(server: Server) -> Iterator[None]:
    jobs = make_jobs(_REQUESTS, steps=_LONG, side=_SIDE)
    with _sending(server, [{"url": "/generate", "json": job.body()} for job in jobs]):
        _wait_until_busy(server)
        yield


def _one_key(server: Server) -> contextlib.AbstractContextManager[None]:
    return _tasks(server, ["one"] * _REQUESTS)


def _keys(server: Server) -> contextlib.AbstractContextManager[None]:
    return _tasks(server, [f"invented-{number}" for number in range(_REQUESTS)])


@contextlib.contextmanager
def _tasks(server: Server, keys: Sequence[str]) -> Iterator[None]:
    """A durable task under each of the keys; they are cancelled at the end."""
    jobs = make_jobs(len(keys), steps=_LONG, side=_SIDE)
    with httpx.Client(base_url=server.url, timeout=None, trust_env=False) as http:
        ids = []
        for key, job in zip(keys, jobs, strict=True):
            fields = {"operation": "generate", **job.body()}
            answer = http.post("/tasks", json=fields, headers={"x-api-key": key}).raise_for_status()
            ids.append(answer.json()["task_id"])
        try:
            _wait_until_busy(server)
            yield
        finally:
            for id in ids:
                http.delete(f"/tasks/{id}")  # 409 for one that has completed
    _wait_until_busy(server, places=0)


@contextlib.contextmanager
def _sending(server: Server, requests: Sequence[dict[str, object]]) -> Iterator[None]:
    """All requests at once, from a thread; those that have no answer at the end are given up."""
    loop = asyncio.new_event_loop()

    async def send_all() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=None, trust_env=False, limits=limits) as http:
            await asyncio.gather(*(http.post(**request) for request in requests))  # type: ignore[arg-type]

    sending = loop.create_task(send_all())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([sending])))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(sending.cancel)
        thread.join()
        loop.close()
    _wait_until_busy(server, places=0)


def _wait_until_busy(server: Server, *, places: int = _PLACES) -> None:
    """Wait until this number of tasks run; 0 = until none runs."""
    deadline = time.monotonic() + _BEGIN_SECONDS
    while True:
        active = int(httpx.get(f"{server.url}/health", trust_env=False, timeout=60).json()["active_tasks"])
        if active >= places > 0 or active == places == 0:
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{active} tasks run after {_BEGIN_SECONDS:g} s, and {places} were expected")
        time.sleep(0.05)
