"""A short job sent behind a long one: where jobs wait for each other, it waits for all of the long one's steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.processes import Server
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.timing import in_turns, latencies, percentile, ratio, timed

TARGET = 0.25
LONG, SHORT = 50, 4
QUICK_LONG = 12
_SIDE = 128
_HEAD_START = 0.1
"""Seconds between the two: time to arrive and to begin."""

REST, BASELINE = "REST", "baseline"


def run(context: Context) -> Section:
    """Latency of a 4-step job that comes 0.1 s after a 50-step job, in turns with the same job alone."""
    rounds, long = context.choose(20, 2), context.choose(LONG, QUICK_LONG)
    servers = {REST: context.service, BASELINE: context.baseline}
    variants = {
        **{name: _behind(server, long_steps=long) for name, server in servers.items()},
        **{f"{name}, alone": _alone(server) for name, server in servers.items()},
    }
    context.stage("a short job behind a long one", rounds + 1)
    seconds = in_turns(variants, rounds=rounds, on_round=context.step)
    p95 = {name: percentile(values, 95) for name, values in seconds.items()}
    case = f"({SHORT} steps behind {long}, {_SIDE}x{_SIDE})"
    findings = (
        Finding(name=f"p95 REST / p95 baseline {case}", value=p95[REST] / p95[BASELINE], rounds=rounds, target=TARGET),
        ratio(f"REST / baseline {case}", seconds[REST], seconds[BASELINE]),
        ratio(f"REST, behind / alone {case}", seconds[REST], seconds[f"{REST}, alone"]),
    )
    rows: list[tuple[Cell, ...]] = [(name, rounds, *latencies(values)) for name, values in seconds.items()]
    table = Table(
        title=f"A {SHORT}-step job {_HEAD_START:g} s behind a {long}-step job, {_SIDE}x{_SIDE}",
        columns=("who", "rounds", "p50 ms", "p95 ms", "p99 ms"),
        rows=tuple(rows),
        note="Each round ends when both jobs are done.",
    )
    return Section(name="sd15_short_job", title="A short job behind a long one", findings=findings, tables=(table,))


def _behind(server: Server, *, long_steps: int) -> Callable[[], float]:
    long = make_jobs(1, steps=long_steps, side=_SIDE)[0].body()
    alone = _alone(server)

    def once() -> float:
        errors: list[Exception] = []
        thread = threading.Thread(target=_send, args=(server, long, errors))
        thread.start()
        time.sleep(_HEAD_START)
        try:
            return alone()
        finally:
            thread.join()
            for error in errors:
                raise error

    return once


def _send(server: Server, body: dict[str, object], errors: list[Exception]) -> None:
    try:
        with Rest(server) as rest:
            rest.generate(body)
    except Exception as error:  # for the thread that waits
        errors.append(error)


def _alone(server: Server) -> Callable[[], float]:
    short = make_jobs(2, steps=SHORT, side=_SIDE)[1].body()

    def once() -> float:
        with Rest(server) as rest:
            return timed(lambda: rest.generate(short))()

    return once
