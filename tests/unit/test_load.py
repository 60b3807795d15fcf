"""What works at the moment: direct requests and tasks at the gate, by an own clock."""

from __future__ import annotations

import asyncio

import pytest

from proxy.gate import Gate
from proxy.load import CURRENT, Load
from tests.unit.clock import Clock


def test_load_knows_a_job_by_its_network() -> None:
    async def scenario() -> None:
        gate = Gate(capacity=2, queue_size=2)
        async with gate.admit(), gate.slot():
            pass

        async def work() -> None:
            job = CURRENT.get()
            assert job is not None
            gate.load.calls("sd15")
            assert job.group == "sd15"

        async with gate.admit():
            await asyncio.gather(work())
        assert CURRENT.get() is None
        gate.load.calls("nobody's")

    asyncio.run(scenario())


def test_load_estimates_direct_requests_from_earlier_ones() -> None:
    clock = Clock()
    load = Load(clock)
    for seconds in (4.0, 4.0):
        with load.job():
            load.calls("sd15")
            clock.now += seconds
    with load.job():
        load.calls("sd15")
        clock.now += 1
        running, waiting = load.direct(queued=2)
        assert [(one.group, one.left) for one in running] == [("sd15", pytest.approx(3.0))]
        assert [(one.group, one.left) for one in waiting] == [("sd15", pytest.approx(4.0))] * 2
        clock.now += 9
        assert load.direct(queued=0)[0][0].left == pytest.approx(1.0), "it is longer than usual and not done"


def test_load_does_not_count_tasks_as_direct_requests() -> None:
    clock = Clock()
    load = Load(clock)
    with load.job() as job:
        clock.now += 5
        load.describe(job, id="task", group="sd15", turn=0.1)
        clock.now += 2
        assert load.direct(queued=0) == ([], [])
        assert load.had() == {"task": pytest.approx(2.0)}, "what came before it was begun does not count"
    assert load.had() == {}


def test_load_measures_how_long_a_slot_is_held() -> None:
    clock = Clock()
    load = Load(clock)
    assert load.expected_seconds() == 1.0
    with load.job():
        clock.now += 30
        assert load.expected_seconds() == 30, "nothing has ended yet, and it takes at least so long"
    assert load.expected_seconds() == 30
    for _ in range(6):
        with load.job():
            clock.now += 2
    assert load.expected_seconds() < 6
