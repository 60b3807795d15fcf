"""What the audit trail costs the proxy at 100 requests a second.

The requests are valid and refused at the end, because no Triton runs behind these proxies. So nothing but the proxy's
own work is measured, and every request has its row.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.processes import Server, started
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.service import server_settings
from benchmarks.timing import in_turns, latencies

RATE = 100
TARGET = 5.0
_KINDS = ("off", "hash", "full")
_BODY = {"prompt": "a cat on a blue background, oil on canvas", "steps": 20, "width": 64, "height": 64}
_REFUSED = 503


def run(context: Context) -> Section:
    """CPU time of proxies with and without the trail, in turns, at the same rate of requests."""
    seconds, rounds = context.choose(10, 2), context.choose(6, 1)
    waits: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    context.stage("CPU of the proxy with the audit trail", rounds + 1)
    with contextlib.ExitStack() as stack:
        proxies = {kind: stack.enter_context(_proxy(kind)) for kind in _KINDS}
        variants = {kind: _measured(proxy, seconds, waits[kind]) for kind, proxy in proxies.items()}
        used = in_turns(variants, rounds=rounds, on_round=context.step)
    shares = {kind: [100 * one / seconds for one in values] for kind, values in used.items()}
    added = {kind: [a - b for a, b in zip(shares[kind], shares["off"], strict=True)] for kind in _KINDS[1:]}
    findings = tuple(
        Finding(
            name=f"CPU that AUDIT={kind} takes at {RATE} requests a second",
            value=statistics.median(values),
            unit="% of a core",
            rounds=rounds,
            target=TARGET,
        )
        for kind, values in added.items()
    )
    rows: list[tuple[Cell, ...]] = [
        (kind, statistics.median(shares[kind]), 10 * statistics.median(shares[kind]) / RATE, *latencies(waits[kind]))
        for kind in _KINDS
    ]
    table = Table(
        title=f"The proxy alone at {RATE} requests a second, which are refused at the end",
        columns=("AUDIT", "CPU, % of a core", "CPU ms a request", "P50 ms", "P95 ms", "P99 ms"),
        rows=tuple(rows),
        note="SQLite, synced to the disk at each commit. At this rate some requests share a commit and wait for it.",
    )
    return Section(name="audit", title="The audit trail", findings=findings, tables=(table,))


@contextlib.contextmanager
def _proxy(kind: str) -> Iterator[Server]:
    """`python -m proxy` without Triton."""
    with tempfile.TemporaryDirectory(prefix="darkroom-audit-") as name:
        folder = Path(name)
        settings = server_settings(folder) | {"audit": kind, "log_level": "WARNING"}
        with started([sys.executable, "-m", "proxy"], folder, settings=settings) as process:
            proxy = Server(process=process, url=f"http://127.0.0.1:{settings['port']}", folder=folder)
            deadline = time.monotonic() + 60
            while proxy.health() is None:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"the proxy does not answer:\n{proxy.log()[-2000:]}")
                time.sleep(0.1)
            yield proxy


def _measured(proxy: Server, seconds: int, waits: list[float]) -> Callable[[], float]:
    process = psutil.Process(proxy.process.pid)

    def cpu() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    def once() -> float:
        began = cpu()
        waits.extend(asyncio.run(_at_a_rate(proxy, RATE * seconds)))
        return cpu() - began

    return once


async def _at_a_rate(proxy: Server, count: int) -> list[float]:
    """Send requests at fixed moments, whatever becomes of the earlier ones; return the seconds that each took.

    :raises BenchmarkError: an answer is another one than expected.
    """

    async def one(http: httpx.AsyncClient) -> float:
        began = time.perf_counter()
        answer = await http.post("/generate", json=_BODY)
        if answer.status_code != _REFUSED:
            raise BenchmarkError(f"expected {_REFUSED}; got {answer.status_code}: {answer.text[:200]}")
        return time.perf_counter() - began

    async with httpx.AsyncClient(base_url=proxy.url, timeout=60, trust_env=False) as http:
        began, running = time.perf_counter(), []
        for number in range(count):
            await asyncio.sleep(began + number / RATE - time.perf_counter())
            running.append(asyncio.create_task(one(http)))
        return list(await asyncio.gather(*running))
