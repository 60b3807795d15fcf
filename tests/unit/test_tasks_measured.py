"""What a runner learns from the tasks that it ran, by an own clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.load import Load
from proxy.tasks.models import Output, TaskContext
from tests.runner_bench import PICTURE, bench, run
from tests.unit.clock import Clock


@pytest.mark.parametrize(("tasks", "direct"), [(1, 0), (4, 0), (1, 3), (3, 1)])
def test_tasks_that_ran_together_are_learnt_as_if_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int, direct: int
) -> None:
    """Alone each takes 2 s. Together, with direct requests among them, they last as many times as long."""

    async def scenario() -> None:
        go_on, clock = asyncio.Event(), Clock()

        async def body(context: TaskContext) -> list[Output]:
            await go_on.wait()
            return [PICTURE]

        async with bench(tmp_path, body, monkeypatch) as made:
            made.gate.load = Load(clock)
            held = [made.gate.load.job() for _ in range(direct)]
            for request in held:
                request.__enter__().group = "scripted"
            ids = [made.add() for _ in range(tasks)]
            jobs = [asyncio.ensure_future(made.runner.execute(id)) for id in ids]
            for _ in ids:
                await made.operation.begun.acquire()
            clock.now += 2.0 * (tasks + direct)
            go_on.set()
            await asyncio.gather(*jobs)
            assert made.task(made.add()).estimate == pytest.approx(2.0)
            for request in held:
                request.__exit__(None, None, None)

    run(scenario)
