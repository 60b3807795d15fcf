"""What the service adds to the network: REST against the bare ONNX Runtime loop over the same tiles."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.local import Local, as_pixels, photo
from benchmarks.results import Cell, Section, Table
from benchmarks.timing import in_turns, ratio, timed
from darkroom.images import decode
from darkroom.pipelines.upscale.networks import PIPELINE
from darkroom.pipelines.upscale.settings import Settings
from darkroom.png import encode_png
from proxy.gateway import Gateway

MODEL = "animevideov3"
TARGET = 1.10
# The bound of the REST contract for one image served alone and in a batch.
_ROUNDING = 2
_IDLE_SECONDS = 5

LOOP, PIPELINE_HERE, GRPC, REST = "bare loop", "pipeline in one process", "Triton over gRPC", "REST"
_ADDS = {
    LOOP: "the network over the tiles, which are cut already",
    PIPELINE_HERE: "decoding, cutting, pasting, encoding",
    GRPC: "Triton: queue, BLS, tensors between processes, gRPC",
    REST: "the proxy: upload, checks, admission, HTTP",
}


def run(context: Context) -> Section:
    """Every step of the ladder loop -> pipeline -> Triton -> REST measured in turns, one request at a time."""
    data, local = photo(), Local(MODEL)
    cut = local.tiles(data)
    rounds = context.choose(15, 2)
    with Rest(context.service) as rest, _Stream(context.service.grpc) as stream:
        _same_picture(rest.upscale(data, MODEL), local.upscale(data))
        variants = {
            LOOP: timed(lambda: local.loop(cut)),
            PIPELINE_HERE: timed(lambda: local.upscale(data)),
            GRPC: timed(lambda: stream.upscale(data)),
            REST: timed(lambda: rest.upscale(data, MODEL)),
        }
        context.stage("REST against the bare loop", rounds + 1)
        seconds = in_turns(variants, rounds=rounds, on_round=context.step)
        work = _work(context, lambda: local.loop(cut), lambda: rest.upscale(data, MODEL), rounds=context.choose(8, 2))
    parts = _parts(data, local.upscale(data), rounds)
    return Section(
        name="overhead",
        title="REST against the bare ONNX Runtime loop",
        findings=(
            ratio(f"REST / bare loop ({MODEL}, 512x512)", seconds[REST], seconds[LOOP], target=TARGET),
            ratio("pipeline in one process / bare loop", seconds[PIPELINE_HERE], seconds[LOOP]),
            ratio("Triton over gRPC / bare loop", seconds[GRPC], seconds[LOOP]),
        ),
        tables=(_ladder(seconds, shape=cut[0].shape, count=len(cut)), work, parts),
    )


def _ladder(seconds: dict[str, list[float]], *, shape: tuple[int, ...], count: int) -> Table:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows: list[tuple[Cell, ...]] = [(LOOP, medians[LOOP], None, _ADDS[LOOP])]
    for before, name in itertools.pairwise(seconds):
        added = statistics.median(b - a for a, b in zip(seconds[before], seconds[name], strict=True))
        rows.append((name, medians[name], added * 1000, _ADDS[name]))
    return Table(
        title=f"{MODEL} x4, 512x512 photo: {count} tiles of {shape[2]}x{shape[1]}, one request at a time",
        columns=("step", "seconds", "adds ms", "what it adds"),
        rows=tuple(rows),
        note="Medians; `adds` is the median difference to the step before it within a round. Every step has one "
        "ONNX Runtime session with one thread per core.",
    )


def _work(context: Context, loop: Callable[[], None], rest: Callable[[], bytes], *, rounds: int) -> Table:
    """CPU time of every process: other programs on the machine disturb it less than they disturb a clock."""
    context.stage("CPU time by process")
    idle_began = context.service.cpu()
    time.sleep(_IDLE_SECONDS)
    loop_began, began = time.process_time(), context.service.cpu()
    for _ in range(rounds):
        loop()
    loop_done, before = time.process_time(), context.service.cpu()
    for _ in range(rounds):
        rest()
    client_done, after = time.process_time(), context.service.cpu()
    rows: list[tuple[Cell, ...]] = [("bare loop, in this process", (loop_done - loop_began) / rounds * 1000, None)]
    rows.append(("REST: client, in this process", (client_done - loop_done) / rounds * 1000, None))
    for name in sorted(after, key=lambda name: before[name] - after[name]):
        spent = (after[name] - before[name]) / rounds * 1000
        idle = (began[name] - idle_began[name]) / _IDLE_SECONDS * 1000
        if max(spent, idle) >= 3:  # the kernel counts in steps of 10 ms
            rows.append((f"REST: {name}", spent, idle))
    return Table(
        title="CPU time by process",
        columns=("process", "CPU ms per picture", "CPU ms per second, idle"),
        rows=tuple(rows),
        note="What a process spends when idle it spends during requests as well.",
    )


def _parts(data: bytes, result: bytes, rounds: int) -> Table:
    """The two parts of the pipeline that can be timed by themselves."""
    pixels = as_pixels(result)
    seconds = in_turns(
        {
            "decode the 512x512 PNG": timed(lambda: decode(data, max_pixels=Settings().max_pixels)),
            "encode a 2048x2048 PNG": timed(lambda: encode_png(pixels)),
        },
        rounds=rounds,
    )
    rows = tuple((name, statistics.median(values) * 1000) for name, values in seconds.items())
    return Table(title="Parts, measured by themselves", columns=("part", "ms"), rows=rows)


def _same_picture(one: bytes, other: bytes) -> None:
    """:raises BenchmarkError: the two images differ by more than rounding, so their times mean nothing."""
    difference = np.abs(as_pixels(one).astype(np.int16) - as_pixels(other)).max()
    if difference > _ROUNDING:
        raise BenchmarkError(f"the service and the loop made different pictures (by {difference} of 255 levels).")


class _Stream:
    """The proxy's own way to Triton, without the proxy. gRPC's asyncio client is bound to one event loop."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._gateway = self._loop.run_until_complete(self._connect(address))

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._gateway.close())
        self._loop.close()

    @staticmethod
    async def _connect(address: str) -> Gateway:
        return Gateway(address)

    def upscale(self, data: bytes) -> None:
        inputs: dict[str, Any] = {"image": np.frombuffer(data, np.uint8), "model": MODEL}
        self._loop.run_until_complete(self._consume(inputs))

    async def _consume(self, inputs: dict[str, Any]) -> None:
        async for _ in self._gateway.stream(PIPELINE.name, inputs):
            pass
