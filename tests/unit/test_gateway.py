"""Calls to Triton that end by themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from darkroom.errors import NetworkError, NotReady
from proxy.gateway import Gateway


class Call:
    """As gRPC's, of which every next response is what `answer` does."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.cancelled = False

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Any:
        return await self.answer()

    def cancel(self) -> None:
        self.cancelled = True


async def _consumed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway("127.0.0.1:1")
    monkeypatch.setattr(gateway._client, "stream_infer", lambda requests, **_: call)
    try:
        async for _ in gateway.stream("model", {}, can_stop=False):
            pass
    finally:
        await gateway.close()


def test_gateway_call_that_grpc_cancels_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does when a call breaks while it is being sent."""

    async def broken() -> None:
        raise asyncio.CancelledError

    with pytest.raises(NotReady, match="broken off"):
        asyncio.run(_consumed(Call(broken), monkeypatch))


def test_gateway_answer_that_cannot_be_read_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def odd() -> tuple[object, None]:
        return object(), None

    with pytest.raises(NetworkError, match="cannot be read"):
        asyncio.run(_consumed(Call(odd), monkeypatch))


def test_gateway_call_of_a_network_that_we_cancel_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        reached = asyncio.Event()

        async def waits() -> None:
            reached.set()
            await asyncio.Event().wait()

        call = Call(waits)
        job = asyncio.ensure_future(_consumed(call, monkeypatch))
        await reached.wait()
        job.cancel()
        await asyncio.wait({job})
        assert (job.cancelled(), call.cancelled) == (True, True)

    asyncio.run(scenario())
