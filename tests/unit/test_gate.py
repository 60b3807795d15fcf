"""Admission: bounds, order, draining."""

from __future__ import annotations

import asyncio

import pytest

from darkroom.errors import NotReady, QueueFull
from proxy.gate import Gate


def test_never_more_than_capacity_and_first_come_first_served() -> None:
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


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
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


def test_no_queue_at_all() -> None:
    async def scenario() -> None:
        gate = Gate(capacity=1, queue_size=0)
        async with gate.admit():
            with pytest.raises(QueueFull):
                gate.check()
        gate.check()

    asyncio.run(scenario())


def test_draining_refuses_new_work_and_waits_for_the_rest() -> None:
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
