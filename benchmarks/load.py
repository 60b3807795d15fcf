"""The REST service under load: many clients, small photos."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import httpx

from benchmarks.context import Context
from benchmarks.local import photo
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.service import Service
from benchmarks.timing import percentile
from darkroom.pipelines.upscale.networks import choose

MODEL = "animevideov3"
_SIZE = 256
_LEVELS = (1, 2, 4, 8)


def run(context: Context) -> Section:
    """Images per second, latency and batch sharing with 1 to 8 clients that each wait for their answer."""
    photos = [photo(_SIZE, left=left, top=top) for left in (0, 256) for top in (0, 256)]
    network = choose(MODEL, None).model_name
    requests = context.choose(60, 8)
    service = context.service
    throughput: dict[int, float] = {}
    rows: list[tuple[Cell, ...]] = []
    for level in _LEVELS:
        context.stage(f"REST, {level} client(s)", requests)
        asyncio.run(_load(service, photos, clients=level, requests=level, on_done=lambda done: None))  # warm-up
        before = service.counts(network)
        began = time.perf_counter()
        latencies = asyncio.run(_load(service, photos, clients=level, requests=requests, on_done=context.step))
        throughput[level] = requests / (time.perf_counter() - began)
        shared = service.counts(network).since(before).rows_per_execution
        figures = [percentile(latencies, percent) * 1000 for percent in (50, 95, 99)]
        rows.append((level, requests, throughput[level], *figures, shared))
    table = Table(
        title=f"{_SIZE}x{_SIZE} photos, {MODEL} x4",
        columns=("clients", "requests", "images/s", "p50 ms", "p95 ms", "p99 ms", "rows per execution"),
        rows=tuple(rows),
        note="The clients run on the same machine and take a little of it.",
    )
    gain = Finding(
        name=f"REST images/s, {_LEVELS[-1]} clients / 1 client ({MODEL}, {_SIZE}x{_SIZE})",
        value=throughput[_LEVELS[-1]] / throughput[1],
    )
    return Section(name="load", title="REST under load", findings=(gain,), tables=(table,))


async def _load(
    service: Service, photos: Sequence[bytes], *, clients: int, requests: int, on_done: Callable[[int], None]
) -> list[float]:
    """Seconds of every request; each client sends its next one when it has its answer.

    :raises httpx.HTTPError: a request failed.
    """
    waiting = iter(list(itertools.islice(itertools.cycle(photos), requests)))
    latencies: list[float] = []

    async def client(http: httpx.AsyncClient) -> None:
        for data in waiting:
            began = time.perf_counter()
            answer = await http.post("/api/upscale", files={"file": ("photo.png", data)}, data={"model": MODEL})
            answer.raise_for_status()
            latencies.append(time.perf_counter() - began)
            on_done(len(latencies))

    async with httpx.AsyncClient(base_url=service.url, timeout=None, trust_env=False) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return latencies
