"""Servers of several that are killed: what gRPC makes of it, and when they are back. Triton itself: tests/lifecycle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing

import pytest

from darkroom.errors import NotReady
from darkroom.registry import families
from proxy.fleet import Fleet
from proxy.tritons import Tritons
from tests.protocol_server import Servers, running_servers

FAMILIES = {name: family.specs for name, family in families().items()}


@pytest.fixture
def servers() -> Iterator[Servers]:
    with running_servers(2) as made:
        yield made


async def come(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # monitors have no event
        await asyncio.sleep(0.02)


async def call(tritons: Tritons, began: asyncio.Event) -> None:
    async with aclosing(tritons.stream("sd15", {}, request_id="long", can_stop=False)) as responses:
        async for _ in responses:
            began.set()


async def quick(tritons: Tritons) -> int:
    async with aclosing(tritons.stream("sd15", {}, request_id="quick", can_stop=False)) as responses:
        return len([outputs async for outputs in responses])


def test_killed_server_ends_its_own_calls_and_is_used_again_when_it_is_back(servers: Servers) -> None:
    async def scenario() -> None:
        tritons = Tritons(servers.entries, FAMILIES, interval=3600, timeout=60)
        await tritons.start()
        fleet, members = Fleet(tritons), tritons.members
        try:
            await come(lambda: all(one.monitor.ready for one in members))
            begun = [asyncio.Event() for _ in range(4)]
            calls = [asyncio.create_task(call(tritons, one)) for one in begun]
            await asyncio.gather(*(one.wait() for one in begun))
            assert [one.running for one in members] == [2, 2]
            servers.kill(0)
            await come(lambda: sum(one.done() for one in calls) == 2)
            errors = [one.exception() for one in calls if one.done()]
            assert [type(error) for error in errors] == [NotReady] * 2
            assert {error.retry_after for error in errors if isinstance(error, NotReady)} == {1}
            assert members[1].running == 2
            assert [await quick(tritons) for _ in range(6)] == [1] * 6  # none of them meets the dead one
            await come(lambda: not members[0].monitor.ready)
            assert (fleet.ready, fleet.ready_of("sd15")) == (True, True)
            servers.start(0)
            await come(lambda: members[0].monitor.ready)
            assert await quick(tritons) == 1
            for one in calls:
                one.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await tritons.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))
