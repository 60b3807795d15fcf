"""The proxy's calls of a pipeline on a real Triton: left early, cancelled, and read to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from proxy.gateway import Gateway
from tests.conftest import RunningTriton, running_triton
from tests.pictures import encoded, photo
from tests.service import link_models
from tests.triton.streams import executions

NETWORK = "realesrgan_animevideov3_x4"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_triton(link_models(folder / "models", "upscale", NETWORK), folder) as running:
        yield running


def _inputs(side: int) -> dict[str, Any]:
    """An image in tiles of 32 pixels, so that there are many of them."""
    data = encoded(photo().resize((side, side)))
    return {"image": np.frombuffer(data, np.uint8), "model": "animevideov3", "tile": 32}


async def _all_stopped(gateway: Gateway) -> None:
    """Return when the calls that were left have ended by themselves."""
    while gateway._stopping:
        await asyncio.gather(*gateway._stopping)


def test_gateway_leaves_a_call_and_the_pipeline_stops(triton: RunningTriton) -> None:
    async def scenario() -> int:
        gateway = Gateway(triton.grpc)
        before = executions(triton, NETWORK)
        async with aclosing(gateway.stream("upscale", _inputs(1024))) as responses:  # 1,024 tiles
            await anext(responses)
        await _all_stopped(gateway)
        ran = executions(triton, NETWORK) - before
        await gateway.close()
        return ran

    assert 1 <= asyncio.run(scenario()) < 512


def test_gateway_call_ends_by_itself_when_its_task_is_cancelled(
    triton: RunningTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gRPC call that is cancelled while its last response is on the way leaks it: none is cancelled here."""
    cancelled = []
    monkeypatch.setattr("proxy.gateway._Call.cancel", lambda call: cancelled.append(call.ended))

    async def consume(gateway: Gateway, reached: asyncio.Event) -> None:
        async for _ in gateway.stream("upscale", _inputs(1024)):
            reached.set()

    async def scenario() -> None:
        gateway, reached = Gateway(triton.grpc), asyncio.Event()
        job = asyncio.ensure_future(consume(gateway, reached))
        await reached.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await _all_stopped(gateway)
        await gateway.close()

    asyncio.run(scenario())
    assert all(cancelled)


def test_gateway_request_to_stop_an_unknown_call_changes_nothing(triton: RunningTriton) -> None:
    async def scenario() -> list[str]:
        gateway = Gateway(triton.grpc)
        async with aclosing(gateway.stream("upscale", _inputs(64))) as responses:
            async for _ in responses:
                pass  # to its end
        outputs = [set(outputs) async for outputs in gateway.stream("upscale", _inputs(64))]
        await gateway.close()
        return sorted(outputs[-1])

    assert asyncio.run(scenario()) == ["details", "progress", "shape", "upscaled"]
