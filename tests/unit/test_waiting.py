"""Waiting that has an end."""

from __future__ import annotations

import asyncio

import pytest

from proxy.waiting import at_most


def test_waiting_cancels_what_takes_longer() -> None:
    async def scenario() -> None:
        work = asyncio.ensure_future(asyncio.Event().wait())
        with pytest.raises(asyncio.TimeoutError):
            await at_most(0.01, work)
        await asyncio.wait({work})
        assert work.cancelled()
        assert await at_most(10, asyncio.sleep(0, "done")) == "done"
        with pytest.raises(ZeroDivisionError):
            await at_most(10, _broken())

    asyncio.run(scenario())


async def _broken() -> None:
    raise ZeroDivisionError


def test_waiting_keeps_a_cancellation_that_comes_with_the_end() -> None:
    async def scenario() -> None:
        work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waits = asyncio.ensure_future(at_most(10, work))
        await asyncio.sleep(0.01)
        work.set_result("done")
        waits.cancel()
        await asyncio.wait({waits})
        assert waits.cancelled()

    asyncio.run(scenario())
