"""Text to image over REST on Triton and on the local engine: the same jobs, repository and proxy."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.clients import Post, closed_loop
from benchmarks.context import Context
from benchmarks.processes import Server
from benchmarks.results import Cell, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.service import link_models
from benchmarks.subjects import measured_service
from benchmarks.timing import Timed, in_turns, latencies, ratio

CLIENTS = (1, 8)
ENGINES = ("triton", "local")
_STEPS, _SIDE = 20, 128
_MODELS = ("sd15", "sd15_loras", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15_vae_encoder")
"""One family, so that two services fit into the memory."""


def run(context: Context) -> Section:
    """Bursts of jobs on each engine in turns. Both services run all the time, and the one that waits needs no CPU."""
    rounds, steps = context.choose(5, 1), context.choose(_STEPS, 4)
    context.stage("starting an engine and the other one", 2)
    with tempfile.TemporaryDirectory() as folder:
        repository = link_models(Path(folder) / "models", *_MODELS, source=context.repository)
        with (
            measured_service(repository=repository, engine="triton") as triton,
            measured_service(repository=repository, engine="local") as local,
        ):
            services = dict(zip(ENGINES, (triton, local), strict=True))
            each: dict[str, list[float]] = {}
            seconds: dict[str, list[float]] = {}
            for clients in CLIENTS:
                count = context.choose(2, 1) * clients
                jobs = [job.post() for job in make_jobs(count, steps=steps, side=_SIDE)]
                variants = {
                    f"{name}, {clients}": _burst(service, jobs, clients, each.setdefault(f"{name}, {clients}", []))
                    for name, service in services.items()
                }
                context.stage(f"{clients} clients", rounds + 1)
                seconds |= in_turns(variants, rounds=rounds, on_round=context.step)
            memory = {name: sum(service.memory().values()) for name, service in services.items()}
    findings = tuple(
        ratio(
            f"images/s, local / Triton ({n} clients, {_SIDE}x{_SIDE})", seconds[f"triton, {n}"], seconds[f"local, {n}"]
        )
        for n in CLIENTS
    )
    return Section(
        name="engines", title="The engines", findings=findings, tables=(_table(seconds, each, memory, steps),)
    )


def _burst(server: Server, jobs: list[Post], clients: int, latencies_of_jobs: list[float]) -> Timed:
    """Send all jobs: seconds until the last answer."""

    def once() -> float:
        began = time.perf_counter()
        answers = closed_loop(server, jobs, clients=clients)
        took = time.perf_counter() - began
        latencies_of_jobs.extend(answer.seconds for answer in answers)
        return took

    return once


def _table(seconds: dict[str, list[float]], each: dict[str, list[float]], memory: dict[str, int], steps: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for case, times in seconds.items():
        name, clients = case.split(", ")
        count = len(each[case]) // (len(times) + 1)
        # The jobs of the round that does not count come first.
        p50, p95, _ = latencies(each[case][count:])
        rate = count / statistics.median(times)
        rows.append((name, int(clients), rate, p50, p95, f"{memory[name] / 2**30:.1f}"))
    return Table(
        title=f"Text to image, {_SIDE}x{_SIDE}, {steps} steps with guidance",
        columns=("engine", "clients", "images/s", "p50 ms", "p95 ms", "memory GiB"),
        rows=tuple(rows),
        note="Images/s is that of the median round. Memory is that of all processes of the service (PSS), afterwards.",
    )
