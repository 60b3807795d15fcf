"""Two Tritons with a core each behind one proxy, against one of them: how much more they do."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.clients import closed_loop
from benchmarks.context import Context
from benchmarks.processes import Server
from benchmarks.results import Cell, Section, Table
from benchmarks.sd15.jobs import make_jobs
from benchmarks.service import link_models
from benchmarks.timing import in_turns, ratio
from benchmarks.tritons import RunningProxy, RunningTriton, running_proxy, running_triton

TARGET = 1.8
_MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
_CLIENTS, _STEPS, _SIDE = 8, 20, 256
_READY_SECONDS = 300.0


def run(context: Context) -> Section:
    """Images per second of 8 clients with one Triton on one core, and with two on two, in turns."""
    title = "Two Tritons, a core each, against one"
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return Section(name="two_tritons", title=title, missing="it takes two cores and taskset.")
    rest = ",".join(map(str, cores[2:]))  # for the proxies; without a third core they share those of the Tritons
    context.stop_servers()
    requests, rounds = context.choose(32, 8), context.choose(5, 1)
    context.stage("starting two Tritons", None)
    with tempfile.TemporaryDirectory(prefix="darkroom-tritons-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        repository = link_models(folder / "repository", *_MODELS, source=context.repository)
        settings: dict[str, object] = {"model_repository": repository, "canary_interval": 3600}
        tritons = [
            stack.enter_context(running_triton(folder / f"triton-{core}", cores=str(core), **settings))
            for core in cores[:2]
        ]
        proxies = {
            f"{count} Triton(s)": _proxy(stack, folder / f"proxy-{count}", tritons[:count], rest, settings)
            for count in (1, 2)
        }
        context.stage(f"{_CLIENTS} clients, in turns", rounds + 1)
        variants = {name: _timed(proxy, requests) for name, proxy in proxies.items()}
        seconds = in_turns(variants, rounds=rounds, on_round=context.step)
    one, two = seconds.values()
    label = f"images/s, two Tritons / one ({_SIDE}x{_SIDE}, {_STEPS} steps, {_CLIENTS} clients)"
    rows: list[tuple[Cell, ...]] = [(name, *_figures(requests, took)) for name, took in seconds.items()]
    table = Table(
        title=f"{requests} images at {_SIDE}x{_SIDE}, {_STEPS} steps, {_CLIENTS} clients",
        columns=("", "images/s, median", "slowest round", "fastest round"),
        rows=tuple(rows),
        note=f"Proxy and clients run on {f'cores {rest}' if rest else 'the cores of the Tritons'}.",
    )
    finding = ratio(label, one, two, target=TARGET, at_least=True)
    return Section(name="two_tritons", title=title, findings=(finding,), tables=(table,))


def _proxy(
    stack: contextlib.ExitStack, folder: Path, tritons: list[RunningTriton], cores: str, settings: dict[str, object]
) -> RunningProxy:
    proxy = stack.enter_context(running_proxy(folder, tritons, cores=cores, **settings))
    deadline = time.monotonic() + _READY_SECONDS
    while not all(one["ready"] for one in proxy.tritons().values()):
        if time.monotonic() > deadline:
            proxy.wait_healthy(0)  # says what it has written
        time.sleep(0.2)
    return proxy


def _timed(server: Server, requests: int) -> Callable[[], float]:
    posts = [job.post() for job in make_jobs(requests, steps=_STEPS, side=_SIDE)]

    def once() -> float:
        began = time.perf_counter()
        closed_loop(server, posts, clients=_CLIENTS)
        return time.perf_counter() - began

    return once


def _figures(requests: int, seconds: list[float]) -> tuple[float, float, float]:
    ordered = sorted(requests / one for one in seconds)
    return ordered[len(ordered) // 2], ordered[0], ordered[-1]
