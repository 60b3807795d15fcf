"""`darkroom.serving.network_queue`: which of the waiting calls run together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from darkroom.serving.batching import NetworkCall
from darkroom.serving.network_queue import Instance, NetworkQueue
from darkroom.serving.networks import Tensors

T = TypeVar("T")


class Echo:
    """Gives back what it is given, batch by batch, once its gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []
        self.started = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.fails = False

    def execute(self, calls: Sequence[NetworkCall]) -> list[Tensors | Exception]:
        self.batches.append([call.inputs["x"].shape for call in calls])
        self.started.set()
        self.open.wait(60)
        if self.fails:
            raise ZeroDivisionError("planted")
        return [{"y": call.inputs["x"]} for call in calls]

    def error_text(self, error: Exception) -> str:
        return f"echo: {error}"

    def close(self) -> None:
        self.batches.append([])


def call(*shape: int) -> NetworkCall:
    return NetworkCall({"x": np.zeros(shape, np.float32)}, ["y"])


def with_queue(work: Callable[[NetworkQueue, Echo], Awaitable[T]], *, delay: float = 0, max_rows: int = 4) -> T:
    async def run() -> T:
        echo = Echo()
        queue = NetworkQueue([await Instance.open(lambda: echo)], max_rows=max_rows, delay=delay)
        try:
            return await work(queue, echo)
        finally:
            echo.open.set()
            await queue.close()

    return asyncio.run(run())


async def run_all(queue: NetworkQueue, *calls: NetworkCall) -> list[Any]:
    return await asyncio.gather(*(queue.run(one) for one in calls), return_exceptions=True)


def test_queue_merges_calls_of_equal_shapes_up_to_the_largest_batch() -> None:
    async def work(queue: NetworkQueue, echo: Echo) -> list[Any]:
        await run_all(queue, call(1, 2), call(2, 2), call(2, 2), call(1, 3), call(1, 3), call(1, 2))
        assert (queue.work.rows, queue.work.executions) == (8, 4)
        return echo.batches

    assert with_queue(work)[:4] == [[(1, 2), (2, 2)], [(2, 2)], [(1, 3), (1, 3)], [(1, 2)]]


def test_queue_merges_what_comes_while_the_network_is_busy() -> None:
    async def work(queue: NetworkQueue, echo: Echo) -> list[Any]:
        echo.open.clear()
        first = asyncio.create_task(queue.run(call(1, 2)))
        assert await asyncio.to_thread(echo.started.wait, 60)
        others = [asyncio.create_task(queue.run(call(1, 2))) for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        echo.open.set()
        await asyncio.gather(first, *others)
        return echo.batches

    assert with_queue(work)[:2] == [[(1, 2)], [(1, 2)] * 3]


def test_queue_of_a_network_without_a_batch_dimension_runs_calls_alone() -> None:
    async def work(queue: NetworkQueue, echo: Echo) -> list[Any]:
        await run_all(queue, call(2), call(2))
        return echo.batches

    assert with_queue(work, max_rows=0)[:2] == [[(2,)], [(2,)]]


def test_queue_runs_a_call_that_is_larger_than_a_batch() -> None:
    answer = with_queue(lambda queue, _: queue.run(call(9, 2)))
    assert answer["y"].shape == (9, 2)


def test_queue_delay_is_over_when_the_batch_is_full() -> None:
    async def work(queue: NetworkQueue, echo: Echo) -> list[Any]:
        first = asyncio.create_task(queue.run(call(3, 2)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not echo.batches
        await asyncio.gather(first, queue.run(call(1, 2)))
        return echo.batches

    assert with_queue(work, delay=3600)[0] == [(3, 2), (1, 2)]


def test_queue_delay_ends_by_itself() -> None:
    answer = with_queue(lambda queue, _: queue.run(call(1, 2)), delay=0.02)
    assert answer["y"].shape == (1, 2)


def test_queue_drops_a_call_whose_caller_is_cancelled() -> None:
    async def work(queue: NetworkQueue, echo: Echo) -> list[Any]:
        echo.open.clear()
        first = asyncio.create_task(queue.run(call(1, 2)))
        assert await asyncio.to_thread(echo.started.wait, 60)
        left, kept = (asyncio.create_task(queue.run(call(rows, 2))) for rows in (2, 1))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        echo.open.set()
        await asyncio.gather(first, kept)
        return echo.batches

    assert with_queue(work)[:2] == [[(1, 2)], [(1, 2)]]


def test_queue_gives_an_error_of_the_whole_batch_to_all_its_calls_and_goes_on() -> None:
    async def work(queue: NetworkQueue, echo: Echo) -> list[Any]:
        echo.fails = True
        failed = await run_all(queue, call(1, 2), call(1, 2))
        echo.fails = False
        return [*failed, await queue.run(call(1, 2))]

    first, second, last = with_queue(work)
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, ZeroDivisionError)
    assert last["y"].shape == (1, 2)


def test_queue_that_closes_refuses_what_waits() -> None:
    async def work() -> None:
        queue = NetworkQueue([await Instance.open(Echo)], max_rows=4, delay=3600)
        waiting = asyncio.create_task(queue.run(call(1, 2)))
        await asyncio.sleep(0)
        await queue.close()
        with pytest.raises(RuntimeError, match="closed"):
            await waiting

    asyncio.run(work())
