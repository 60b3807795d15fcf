"""What metrics cost: two services that differ in METRICS alone, in turns, with the same bursts of small jobs.

Small images with many steps are the worst case: nothing else is measured as often for so little work. The service with
metrics is also read once in each round, as Prometheus does it every 15 seconds.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.context import Context
from benchmarks.results import Cell, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.sd15.throughput import CLIENTS, burst
from benchmarks.service import RunningService, link_models, running_service
from benchmarks.timing import Timed, in_turns, latencies, ratio
from darkroom.registry import families

TARGET = 1.02
_STEPS, _SIDE = 20, 64
_FAMILY = "sd15"


def run(context: Context) -> Section:
    """Bursts of 8 clients at both services, in turns."""
    jobs = make_jobs(context.choose(4, 1) * CLIENTS, steps=context.choose(_STEPS, 4), side=_SIDE)
    rounds = context.choose(8, 1)
    each: dict[str, list[float]] = {"false": [], "true": []}
    used: dict[str, list[float]] = {"false": [], "true": []}
    with contextlib.ExitStack() as stack:
        context.stage("starting two services")
        services = {kind: stack.enter_context(_service(context.repository, kind)) for kind in each}
        variants = {kind: _measured(one, kind, burst(one, jobs, each[kind]), used) for kind, one in services.items()}
        context.stage("bursts with and without metrics", rounds + 1)
        seconds = in_turns(variants, rounds=rounds, on_round=context.step)
    case = f"({CLIENTS} clients, {_SIDE}x{_SIDE}, {jobs[0].steps} steps)"
    findings = (
        ratio(f"time with metrics / without {case}", seconds["true"], seconds["false"], target=TARGET),
        ratio(f"CPU time with metrics / without {case}", used["true"][1:], used["false"][1:], target=TARGET),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            kind,
            len(jobs) / statistics.median(seconds[kind]),
            1000 * statistics.median(used[kind][1:]) / len(jobs),
            *latencies(each[kind][len(jobs) :]),
        )
        for kind in each
    ]
    table = Table(
        title=f"{len(jobs)} jobs a round, {rounds} rounds",
        columns=("METRICS", "images/s", "CPU ms per image", "p50 ms", "p95 ms", "p99 ms"),
        rows=tuple(rows),
        note="CPU time of all processes of a service while its own jobs ran.",
    )
    return Section(name="metrics", title="What metrics cost", findings=findings, tables=(table,))


@contextlib.contextmanager
def _service(repository: Path, kind: str) -> Iterator[RunningService]:
    with tempfile.TemporaryDirectory(prefix="darkroom-metrics-") as name:
        folder = Path(name)
        there = [spec.name for spec in families()[_FAMILY].specs if (repository / spec.name / "1").is_dir()]
        models = link_models(folder / "models", *there, source=repository.absolute())
        with running_service(folder, metrics=kind, model_repository=models, canary_interval=3600) as service:
            yield service


def _measured(service: RunningService, kind: str, work: Timed, used: dict[str, list[float]]) -> Timed:
    """`work`, with the CPU time of the service added to `used`; the metrics are read once, where there are any."""

    def once() -> float:
        before = sum(service.cpu().values())
        took = work()
        if kind == "true":
            httpx.get(f"{service.url}/metrics", timeout=60, trust_env=False).raise_for_status()
        used[kind].append(sum(service.cpu().values()) - before)
        return took

    return once
