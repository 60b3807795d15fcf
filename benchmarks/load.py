"""The REST service under load: many clients, small photos."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from benchmarks.clients import Post, closed_loop
from benchmarks.context import Context
from benchmarks.local import photo
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.timing import latencies
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
        closed_loop(service, _posts(photos, level), clients=level)  # warm-up
        before = service.counts(network)
        began = time.perf_counter()
        answers = closed_loop(service, _posts(photos, requests), clients=level, on_done=context.step)
        throughput[level] = requests / (time.perf_counter() - began)
        shared = service.counts(network).since(before).rows_per_execution
        figures = latencies([answer.seconds for answer in answers])
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


def _posts(photos: Sequence[bytes], count: int) -> list[Post]:
    """`count` uploads, the photos in turns."""

    def post(data: bytes) -> Post:
        files, fields = {"file": ("photo.png", data)}, {"model": MODEL}
        return lambda http: http.post("/api/upscale", files=files, data=fields)

    return [post(data) for data in itertools.islice(itertools.cycle(photos), count)]
