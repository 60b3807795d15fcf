"""Work that has an end."""

from __future__ import annotations

import asyncio

import pytest

from darkroom.errors import TaskTimeout
from proxy.services import within


@pytest.mark.parametrize("steps", range(4))
def test_within_keeps_a_cancellation_that_comes_with_the_end(steps: int) -> None:
    """With `asyncio.wait_for` Python before 3.12 lost it."""

    async def scenario() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def work() -> str:
            return await answer

        async def whole() -> None:
            await within(3600, work())
            await asyncio.sleep(0)
            reached.append(True)

        reached: list[bool] = []
        task = asyncio.ensure_future(whole())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answer.set_result("")
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not reached

    asyncio.run(scenario())


def test_within_stops_work_that_takes_too_long() -> None:
    async def scenario() -> None:
        with pytest.raises(TaskTimeout, match=r"TASK_TIMEOUT = 0\.01 s"):
            await within(0.01, asyncio.sleep(3600))

    asyncio.run(scenario())
