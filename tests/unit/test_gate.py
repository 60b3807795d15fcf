"""Admission: bounds, order, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from darkroom.errors import NotReady, QueueFull
from proxy.gate import Gate


def test_gate_never_exceeds_its_capacity_and_keeps_the_order() -> None:
    async def scenario() -> tuple[int, list[int]]:
        gate, running, most, order = Gate(capacity=2, queue_size=100), 0, 0, []

        async def task(number: int) -> None:
            nonlocal running, most
            async with gate.admit():
                running += 1
                most = max(most, running)
                order.append(number)
                await asyncio.sleep(0.01)
                running -= 1

        await asyncio.gather(*(task(n) for n in range(10)))
        assert gate.idle
        assert gate.total == 10
        return most, order

    most, order = asyncio.run(scenario())
    assert most == 2
    assert order == list(range(10))


def test_gate_with_a_full_queue_refuses_with_retry_after() -> None:
    async def scenario() -> None:
        gate, leave = Gate(capacity=1, queue_size=2), asyncio.Event()

        async def task() -> None:
            async with gate.admit():
                await leave.wait()

        tasks = [asyncio.create_task(task()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            gate.check()
        assert 1 <= caught.value.retry_after <= 60
        assert (gate.active, gate.queued) == (1, 2)
        tasks[1].cancel()  # a client that waits and leaves makes room
        await asyncio.gather(tasks[1], return_exceptions=True)
        gate.check()
        leave.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert gate.idle

    asyncio.run(scenario())


def test_gate_without_a_queue() -> None:
    async def scenario() -> None:
        gate = Gate(capacity=1, queue_size=0)
        async with gate.admit():
            with pytest.raises(QueueFull):
                gate.check()
        gate.check()

    asyncio.run(scenario())


def test_gate_that_drains_refuses_new_work_and_waits_for_the_rest() -> None:
    async def scenario() -> None:
        gate = Gate(capacity=1, queue_size=5)
        done: list[int] = []

        async def task(number: int) -> None:
            async with gate.admit():
                await asyncio.sleep(0.01)
                done.append(number)

        tasks = [asyncio.create_task(task(n)) for n in range(3)]
        await asyncio.sleep(0)
        gate.draining = True
        with pytest.raises(NotReady):
            gate.check()
        await asyncio.wait_for(gate.wait_idle(), 5)
        assert done == [0, 1, 2]
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


class Queue:
    """Tasks at a gate that hold their slots until they are told to leave."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.began: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}

    def come(self, name: str, source: str, *, durable: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(self._task(name, source, durable))

    async def _task(self, name: str, source: str, durable: bool) -> None:
        leave = self.leave[name] = asyncio.Event()
        async with self.gate.slot(source) if durable else self.gate.admit(source):
            self.began.append(name)
            await leave.wait()

    async def end(self, name: str) -> None:
        self.leave[name].set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("durable", [False, True])
def test_gate_admits_a_client_without_a_slot_as_a_guest(durable: bool) -> None:
    async def scenario() -> None:
        queue = Queue(Gate(capacity=4, queue_size=100))
        greedy = [queue.come(f"g{n}", "greedy", durable=bool(n % 2)) for n in range(40)]
        await settle()
        assert queue.began == ["g0", "g1", "g2", "g3"]
        new = [queue.come(f"n{n}", "new", durable=durable) for n in range(2)]
        await settle()
        assert queue.began[4:] == ["n0"], "at once, and one only"
        await queue.end("n0")
        assert queue.began[5:] == ["n1"]
        await queue.end("n1")
        await queue.end("g0")
        assert queue.began[6:] == ["g4"]
        for task in (*greedy, *new):
            task.cancel()
        await asyncio.gather(*greedy, *new, return_exceptions=True)
        assert queue.gate.idle

    asyncio.run(scenario())


def test_gate_limits_the_number_of_guests() -> None:
    async def scenario() -> None:
        queue = Queue(Gate(capacity=4, queue_size=100))
        tasks = [queue.come(f"c{n}", f"client {n}") for n in range(10)]
        await settle()
        assert queue.began == [f"c{n}" for n in range(6)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


def test_gate_gives_waiting_clients_turns() -> None:
    async def scenario() -> None:
        queue = Queue(Gate(capacity=1, queue_size=100))  # and no guests
        tasks = [queue.come(name, name[0]) for name in ("a0", "a1", "a2", "a3", "b0", "b1", "c0")]
        await settle()
        while len(queue.began) < len(tasks):
            await queue.end(queue.began[-1])
        await queue.end(queue.began[-1])
        assert queue.began == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
        assert queue.gate.idle

    asyncio.run(scenario())


def test_gate_with_a_full_queue_still_admits_a_guest() -> None:
    async def scenario() -> None:
        queue = Queue(Gate(capacity=2, queue_size=3))
        tasks = [queue.come(f"g{n}", "greedy") for n in range(5)]
        await settle()
        with pytest.raises(QueueFull):
            queue.gate.check("greedy")
        queue.gate.check("new")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


def test_gate_takes_a_slot_back_that_comes_with_a_cancellation() -> None:
    async def scenario() -> None:
        queue = Queue(Gate(capacity=1, queue_size=3))
        tasks = [queue.come(name, "a") for name in ("first", "second", "third")]
        await settle()
        queue.leave["first"].set()
        await asyncio.sleep(0)
        assert (tasks[0].done(), queue.began) == (True, ["first"]), "the second has the place, and does not know yet"
        tasks[1].cancel()
        await settle()
        assert queue.began == ["first", "third"]
        assert tasks[1].cancelled()
        await queue.end("third")
        assert queue.gate.idle

    asyncio.run(scenario())


def test_gate_counts_tasks_that_wait_for_their_models() -> None:
    """They wait without a slot, so others have it, and the queue is bounded with them."""

    async def scenario() -> None:
        gate, loaded, began = Gate(capacity=1, queue_size=2), asyncio.Event(), list[str]()

        @asynccontextmanager
        async def models() -> AsyncIterator[None]:
            await loaded.wait()
            yield

        async def task(name: str, before: AbstractAsyncContextManager[None] | None = None) -> None:
            async with gate.admit("", before, waits=before is not None):
                began.append(name)

        waiting = [asyncio.create_task(task(name, models())) for name in ("first", "second")]
        await asyncio.sleep(0)
        assert (gate.active, gate.queued, gate.idle) == (0, 2, False)
        with pytest.raises(QueueFull):
            gate.check(waits=True)
        await task("of a loaded model")
        loaded.set()
        await asyncio.gather(*waiting)
        assert began == ["of a loaded model", "first", "second"]
        assert gate.idle

    asyncio.run(scenario())
