"""What metrics and traces cost: services that differ in these settings alone, in turns, with the same bursts of small
jobs.

Small images with many steps are the worst case: nothing else is measured as often for so little work. Services with
metrics are also read once in each round, as Prometheus does it every 15 seconds. Every request is traced, for a
collector on this machine that reads what comes and drops it.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from benchmarks.context import Context
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.sd15.throughput import CLIENTS, burst
from benchmarks.service import RunningService, link_models, running_service
from benchmarks.timing import Timed, in_turns, latencies, ratio
from darkroom import tracing
from darkroom.registry import families

TARGET = 1.02
_STEPS, _SIDE = 20, 64
_FAMILY = "sd15"
_NEITHER, _METRICS, _TRACES = "neither", "metrics", "metrics and traces"


def run(context: Context) -> Section:
    """Bursts of 8 clients at all services, in turns."""
    jobs = make_jobs(context.choose(4, 1) * CLIENTS, steps=context.choose(_STEPS, 4), side=_SIDE)
    rounds = context.choose(8, 1)
    with contextlib.ExitStack() as stack:
        variants = _variants(stack.enter_context(_collector()))
        each: dict[str, list[float]] = {kind: [] for kind in variants}
        used: dict[str, list[float]] = {kind: [] for kind in variants}
        context.stage(f"starting {len(variants)} services")
        started = {kind: stack.enter_context(_service(context.repository, variants[kind])) for kind in variants}
        work = {kind: _measured(one, kind, burst(one, jobs, each[kind]), used) for kind, one in started.items()}
        context.stage("bursts with and without metrics and traces", rounds + 1)
        seconds = in_turns(work, rounds=rounds, on_round=context.step)
    case = f"({CLIENTS} clients, {_SIDE}x{_SIDE}, {jobs[0].steps} steps)"
    findings: list[Finding] = []
    for kind in [name for name in variants if name != _NEITHER]:
        of_cpu = used[kind][1:], used[_NEITHER][1:]
        findings.append(ratio(f"time with {kind} / without {case}", seconds[kind], seconds[_NEITHER], target=TARGET))
        findings.append(ratio(f"CPU time with {kind} / without {case}", *of_cpu, target=TARGET))
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
        columns=("with", "images/s", "CPU ms per image", "p50 ms", "p95 ms", "p99 ms"),
        rows=tuple(rows),
        note="CPU time of all processes of a service while its own jobs ran.",
    )
    missing = "" if _TRACES in variants else "traces: pip install 'darkroom[traces]'"
    return Section(
        name="metrics",
        title="What metrics and traces cost",
        findings=tuple(findings),
        tables=(table,),
        missing=missing,
    )


def _variants(collector: str) -> dict[str, Mapping[str, Any]]:
    """The settings of each service."""
    found: dict[str, Mapping[str, Any]] = {_NEITHER: {"metrics": "false"}, _METRICS: {"metrics": "true"}}
    if tracing.is_installed():
        found[_TRACES] = {"metrics": "true", "otel_exporter_otlp_endpoint": collector}
    return found


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    """The URL of a server that takes everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def _service(repository: Path, settings: Mapping[str, Any]) -> Iterator[RunningService]:
    with tempfile.TemporaryDirectory(prefix="darkroom-metrics-") as name:
        folder = Path(name)
        there = [spec.name for spec in families()[_FAMILY].specs if (repository / spec.name / "1").is_dir()]
        models = link_models(folder / "models", *there, source=repository.absolute())
        with running_service(folder, model_repository=models, canary_interval=3600, **settings) as service:
            yield service


def _measured(service: RunningService, kind: str, work: Timed, used: dict[str, list[float]]) -> Timed:
    """`work`, with the CPU time of the service added to `used`; the metrics are read once, where there are any."""

    def once() -> float:
        before = sum(service.cpu().values())
        took = work()
        if kind != _NEITHER:
            httpx.get(f"{service.url}/metrics", timeout=60, trust_env=False).raise_for_status()
        used[kind].append(sum(service.cpu().values()) - before)
        return took

    return once
