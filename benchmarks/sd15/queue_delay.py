"""How long a batch should wait for company: services that differ in max_queue_delay_microseconds alone."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.sd15.loop import exported
from benchmarks.sd15.throughput import CLIENTS, burst
from benchmarks.service import RunningService
from benchmarks.subjects import measured_service
from benchmarks.timing import in_turns, latencies, ratio, timed
from darkroom.pipelines.sd15.networks import PIPELINE, TEXT_ENCODER, UNET, VAE_DECODER
from darkroom.serving.networks import ModelSpec
from exporters.config import Placement, config_path, write_configs

DELAYS_MS = (0, 1, 2, 5)
_SPECS = (TEXT_ENCODER, UNET, VAE_DECODER, PIPELINE)
_STEPS = 20
_SIDE = 128


def run(context: Context) -> Section:
    """Throughput and rows per execution with 8 clients, latency with one, for each delay, in turns."""
    steps, rounds = context.choose(_STEPS, 4), context.choose(4, 1)
    jobs = make_jobs(2 * CLIENTS if not context.quick else CLIENTS, steps=steps, side=_SIDE)
    with contextlib.ExitStack() as stack:
        services: dict[str, RunningService] = {}
        for delay in DELAYS_MS if not context.quick else DELAYS_MS[::3]:
            context.stage(f"starting a service with a delay of {delay} ms")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="darkroom-benchmarks-")))
            repository = folder / "model_repository"
            link_repository(context.repository, repository, _SPECS, Placement(queue_delay_us=delay * 1000))
            services[f"{delay} ms"] = stack.enter_context(measured_service(repository=repository))
        context.stage(f"queue delays, {CLIENTS} clients", rounds + 1)
        each: dict[str, list[float]] = {name: [] for name in services}
        before = {name: service.counts(UNET.name) for name, service in services.items()}
        bursts = {name: burst(service, jobs, each[name]) for name, service in services.items()}
        together = in_turns(bursts, rounds=rounds, on_round=context.step)
        shared = {name: services[name].counts(UNET.name).since(before[name]).rows_per_execution for name in services}
        context.stage("queue delays, 1 client", 2 * rounds + 1)
        clients = {name: stack.enter_context(Rest(service)) for name, service in services.items()}
        body = jobs[0].body()
        singles = {name: timed(partial(rest.generate, body)) for name, rest in clients.items()}
        alone = in_turns(singles, rounds=2 * rounds, on_round=context.step)
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            len(jobs) / statistics.median(together[name]),
            shared[name],
            *latencies(each[name][len(jobs) :]),
            statistics.median(alone[name]) * 1000,
        )
        for name in services
    ]
    table = Table(
        title=f"{_SIDE}x{_SIDE}, {steps} steps with guidance",
        columns=(
            *("delay", "images/s, 8 clients", "rows per execution", "p50 ms", "p95 ms", "p99 ms"),
            "p50 ms, 1 client",
        ),
        rows=tuple(rows),
        note=f"{rounds} bursts of {len(jobs)} jobs from {CLIENTS} clients, and {2 * rounds} jobs alone; the services "
        "run side by side and are measured in turns.",
    )
    return Section(
        name="sd15_queue_delay", title="Queue delay", findings=_findings(together, alone, steps), tables=(table,)
    )


def _findings(together: dict[str, list[float]], alone: dict[str, list[float]], steps: int) -> tuple[Finding, ...]:
    first, *others = together
    return tuple(
        finding
        for name in others
        for finding in (
            ratio(f"images/s, delay {name} / {first} (8 clients, {steps} steps)", together[first], together[name]),
            ratio(f"latency, delay {name} / {first} (1 client, {steps} steps)", alone[name], alone[first]),
        )
    )


def link_repository(source: Path, target: Path, specs: Iterable[ModelSpec], placement: Placement) -> None:
    """A repository elsewhere with configs of its own, and links to the weights of `source`.

    :raises BenchmarkError: `source` lacks a file of one of the models.
    """
    for spec in specs:
        for name in spec.files:
            exported(source, spec, name)
        version = config_path(target, spec).parent / "1"
        version.mkdir(parents=True)
        for file in (source / spec.name / "1").iterdir():
            if file.is_file() and file.suffix != ".py":
                (version / file.name).symlink_to(file.resolve())
    write_configs(target, specs, placement)
