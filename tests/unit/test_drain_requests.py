"""Requests that take no slot, while the service shuts down."""

from __future__ import annotations

import asyncio

import pytest

from darkroom.errors import NotReady
from darkroom.settings import Settings
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.services import Services
from tests.monitors import Ready


def test_request_without_a_slot_is_refused_when_the_service_ends() -> None:
    """Before it begins, and when it is cancelled because it takes too long; a cancelled one is cancelled otherwise."""

    async def scenario() -> None:
        gateway, gate = Gateway("127.0.0.1:1"), Gate(capacity=1, queue_size=1)
        monitor = Ready(gateway, {}, metrics_url="", interval=1, timeout=1)
        services = Services(settings=Settings(_env_file=None), gateway=gateway, monitor=monitor, gate=gate)

        async def request() -> None:
            with services.taken_before_the_end():
                await asyncio.sleep(60)

        for draining, error in ((False, asyncio.CancelledError), (True, NotReady)):
            gate.draining = False
            job = asyncio.create_task(request())
            await asyncio.sleep(0)
            gate.draining = draining
            job.cancel()
            with pytest.raises(error):
                await job
        with pytest.raises(NotReady) as refused:
            await request()
        assert refused.value.retry_after
        await gateway.close()

    asyncio.run(scenario())
