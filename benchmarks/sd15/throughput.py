"""Many clients: images per second of the service, of the baseline and of the loop that has all jobs as one batch."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.clients import closed_loop
from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.metrics import Counts
from benchmarks.processes import Server
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import Job, content, make_jobs, pictures, require_same
from benchmarks.sd15.loop import Loop
from benchmarks.service import RunningService
from benchmarks.timing import Timed, in_turns, latencies, ratio
from darkroom.pipelines.sd15.networks import UNET

CLIENTS = 8
BASELINE_TARGET = 1.5
LOOP_TARGET = 0.9
ROWS_TARGET = 0.8
_STEPS = 20
_SIDE = 128

REST, LOOP, BASELINE = "REST", "bare loop, batches of 8", "baseline"


def run(context: Context) -> Section:
    """Bursts of jobs from 8 clients that each wait for their answer, in turns with the same jobs as batches."""
    jobs = make_jobs(context.choose(2, 1) * CLIENTS, steps=context.choose(_STEPS, 4), side=_SIDE)
    rounds = context.choose(5, 1)
    loop, service, baseline = Loop(context.repository), context.service, context.baseline
    batches = [jobs[at : at + CLIENTS] for at in range(0, len(jobs), CLIENTS)]
    _compare_pictures(context, jobs[:CLIENTS], loop, (service, baseline))
    each: dict[str, list[float]] = {REST: [], LOOP: [], BASELINE: []}
    needed: dict[str, float] = {}
    variants = {
        REST: _with_cpu(service, burst(service, jobs, each[REST]), needed),
        LOOP: _loops(loop, batches, each[LOOP]),
        BASELINE: burst(baseline, jobs, each[BASELINE]),
    }
    before = service.counts(UNET.name)
    context.stage(f"{CLIENTS} clients", rounds + 1)
    seconds = in_turns(variants, rounds=rounds, on_round=context.step)
    counts = service.counts(UNET.name).since(before)
    case = f"({CLIENTS} clients, {_SIDE}x{_SIDE}, {jobs[0].steps} steps)"
    rest, alone, together = (seconds[name] for name in (REST, BASELINE, LOOP))
    findings = (
        ratio(f"REST images/s / baseline's {case}", alone, rest, target=BASELINE_TARGET, at_least=True),
        ratio(f"REST images/s / bare loop's {case}", together, rest, target=LOOP_TARGET, at_least=True),
        sharing(counts, context.repository, case),
    )
    rows: list[tuple[Cell, ...]] = [
        # The jobs of the round that does not count come first.
        (name, rounds * len(jobs), len(jobs) / statistics.median(seconds[name]), *latencies(each[name][len(jobs) :]))
        for name in variants
    ]
    table = Table(
        title=f"{len(jobs)} jobs a round, {_SIDE}x{_SIDE}, {jobs[0].steps} steps with guidance",
        columns=("who", "jobs", "images/s", "p50 ms", "p95 ms", "p99 ms"),
        rows=tuple(rows),
        note=f"{CLIENTS} clients, each with one job at a time; the loop takes {CLIENTS} jobs as one batch and has "
        "neither HTTP nor other processes around it. Images/s is that of the median round.",
    )
    tables = (table, _cpu_table(needed, images=(rounds + 1) * len(jobs)))
    return Section(name="sd15_throughput", title="Text to image, 8 clients at once", findings=findings, tables=tables)


def _cpu_table(seconds: Mapping[str, float], *, images: int) -> Table:
    """What each process of the service needed: the cores that loops and transport take are missing to the UNet."""
    total = sum(seconds.values())
    shares = sorted(((name, value) for name, value in seconds.items() if value > 0.01 * total), key=lambda x: -x[1])
    return Table(
        title="CPU time of the service's processes",
        columns=("process", "CPU ms per image", "share"),
        rows=tuple((name, value * 1000 / images, f"{value / total:.1%}") for name, value in shares),
        note="While its own jobs ran. Processes with less than 1 % are left out.",
    )


def burst(server: Server, jobs: Sequence[Job], latencies_of_jobs: list[float], *, clients: int = CLIENTS) -> Timed:
    """Send all jobs: seconds until the last answer. The seconds of each job are added to `latencies_of_jobs`."""

    def once() -> float:
        began = time.perf_counter()
        answers = closed_loop(server, [job.post() for job in jobs], clients=clients)
        took = time.perf_counter() - began
        latencies_of_jobs.extend(answer.seconds for answer in answers)
        return took

    return once


def _with_cpu(service: RunningService, work: Timed, needed: dict[str, float]) -> Timed:
    """`work`, and to `needed` goes the CPU time that each process of the service spends meanwhile."""

    def once() -> float:
        before = service.cpu()
        took = work()
        for name, value in service.cpu().items():
            needed[name] = needed.get(name, 0.0) + value - before.get(name, 0.0)
        return took

    return once


def _loops(loop: Loop, batches: Sequence[Sequence[Job]], latencies_of_jobs: list[float]) -> Timed:
    def once() -> float:
        total = 0.0
        for batch in batches:
            began = time.perf_counter()
            loop.run(batch)
            took = time.perf_counter() - began
            latencies_of_jobs.extend([took] * len(batch))
            total += took
        return total

    return once


def sharing(counts: Counts, repository: Path, case: str) -> Finding:
    """Rows per execution of the UNet as a share of its largest batch.

    :raises BenchmarkError: it was not executed at all.
    """
    if counts.rows_per_execution is None:
        raise BenchmarkError(f"Triton counted no execution of {UNET.name}.")
    cap = max_batch_size(repository)
    name = f"rows per execution of {UNET.name} / max_batch_size {cap} {case}"
    return Finding(name=name, value=counts.rows_per_execution / cap, target=ROWS_TARGET, at_least=True)


def max_batch_size(repository: Path) -> int:
    """The largest batch of the UNet, as its config.pbtxt says.

    :raises BenchmarkError: the repository has no such config.
    """
    path = repository / UNET.name / "config.pbtxt"
    found = re.search(r"^max_batch_size: (\d+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    if found is None:
        raise BenchmarkError(f"{path} does not say max_batch_size.")
    return int(found[1])


def _compare_pictures(context: Context, jobs: Sequence[Job], loop: Loop, servers: Sequence[Server]) -> None:
    """The servers, loaded, against the batched loop."""
    context.stage("comparing pictures")
    reference = dict(zip([job.seed for job in jobs], loop.run(jobs), strict=True))
    for server in servers:
        for answer in closed_loop(server, [job.post() for job in jobs], clients=CLIENTS):
            found = content(answer)
            require_same(pictures(found), [reference[found["seed"]]], f"{server.url} and the bare loop")
