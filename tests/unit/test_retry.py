"""When refused clients are told to come back: by an own clock, at the gate and for tasks."""

from __future__ import annotations

import asyncio

import pytest

from darkroom.errors import QueueFull
from proxy import gate as gate_module
from proxy.gate import Gate
from proxy.load import Load
from proxy.retry import RETRY_AFTER_RANGE, Appointments, Flow
from tests.unit.clock import Clock


def test_retry_after_differs_between_refused_clients() -> None:
    clock = Clock()
    book = Appointments(clock)
    assert [book.next(lambda number: 2.0 * number, most=4) for _ in range(6)] == [2, 4, 6, 8, 8, 8]
    clock.now += 5  # two of them have come
    assert book.next(lambda number: 2.0 * number, most=4) == 6


def test_retry_after_of_a_batch_waits_for_as_many_slots() -> None:
    assert Appointments(Clock()).next(lambda number: 2.0 * number, count=3, most=9) == 6


@pytest.mark.parametrize(("seconds", "said"), [(0.0, 1), (0.2, 1), (1.2, 2), (59.5, 60), (1e6, RETRY_AFTER_RANGE[1])])
def test_retry_after_is_whole_seconds_within_bounds(seconds: float, said: int) -> None:
    assert Appointments(Clock()).next(lambda number: seconds, most=9) == said


def test_retry_after_follows_the_rate_of_the_queue() -> None:
    clock = Clock()
    flow = Flow(clock)
    assert flow.interval(3.0) == 3.0
    flow.waits()
    clock.now += 20
    assert flow.interval(3.0) == 20, "it does not move: not as fast as was thought"
    for _ in range(14):
        flow.moved()
        clock.now += 1
        flow.waits()
    assert 2 < flow.interval(3.0) < 3, "a few tasks are enough to notice"
    flow.empty()
    assert flow.interval(3.0) == 3.0


class Crowd:
    """Direct requests at a gate of 2 slots with a queue of 4; each takes a given number of seconds of its own clock."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        for name, made in (("Load", Load), ("Flow", Flow), ("Appointments", Appointments)):
            monkeypatch.setattr(gate_module, name, lambda made=made: made(self.clock))
        self.gate = Gate(capacity=2, queue_size=4)
        self.seconds = seconds
        self._next: list[asyncio.Event] = []
        self._jobs: list[asyncio.Task[None]] = []

    async def come(self) -> None:
        """One more, which is let in."""
        self.gate.check()
        self._jobs.append(asyncio.create_task(self._stay()))
        await asyncio.sleep(0)

    async def _stay(self) -> None:
        async with self.gate.admit():
            self._next.append(asyncio.Event())
            await self._next[-1].wait()

    async def end(self) -> None:
        """One of two that run ends, half of their time after the last end."""
        self.clock.now += self.seconds / 2
        self._next.pop(0).set()
        for _ in range(5):
            await asyncio.sleep(0)

    async def away(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def refused(self) -> int:
        with pytest.raises(QueueFull) as caught:
            self.gate.check()
        return caught.value.retry_after


@pytest.mark.parametrize("seconds", [8.0, 60.0])
def test_retry_after_at_a_full_gate_is_the_time_until_there_is_room(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of 8 s, two at a time: there is room in the queue each 4 s, after few tasks and for one client each."""

    async def scenario() -> None:
        crowd = Crowd(seconds, monkeypatch)
        for _ in range(6):
            await crowd.come()
        for _ in range(6):
            await crowd.end()
            await crowd.come()
        said = [crowd.refused() for _ in range(3)]
        assert said == pytest.approx([seconds / 2, seconds, 1.5 * seconds], rel=0.35)
        assert said == sorted(set(said))
        await crowd.away()

    asyncio.run(scenario())


def test_retry_after_at_a_stalled_gate_is_more_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has ended yet: those at work have been there for 90 s, and it may well take as long again."""

    async def scenario() -> None:
        crowd = Crowd(1.0, monkeypatch)
        for _ in range(6):
            await crowd.come()
        crowd.clock.now += 90
        assert 30 <= crowd.refused() <= 120
        await crowd.away()

    asyncio.run(scenario())
