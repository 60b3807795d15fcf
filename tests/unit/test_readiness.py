"""Canaries: what counts as a server that does not work, and what as one that is busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from darkroom.errors import NetworkError, NotReady
from darkroom.registry import families
from darkroom.serving.networks import Array
from proxy.gateway import Gateway
from proxy.readiness import Monitor
from tests.unit.loopback import Answer, Received, loopback

FAMILY = {"sd15": families()["sd15"]}
MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")


class Server(Gateway):
    """Answers canaries until one model is told to hang."""

    def __init__(self) -> None:
        self.hanging: str | None = None

    async def models(self) -> dict[str, bool]:
        return dict.fromkeys(MODELS, True)

    async def stream(
        self, model: str, inputs: Mapping[str, Any], *, request_id: str = "", can_stop: bool = True
    ) -> AsyncGenerator[dict[str, Array], None]:
        if model == self.hanging:
            await asyncio.sleep(3600)
        yield {}


@pytest.mark.parametrize("hanging", ["sd15", "sd15_vae_decoder"])
@pytest.mark.parametrize("working", [None, "sd15_unet", "sd15_text_encoder", "sd15_vae_decoder"])
def test_work_that_goes_on_excuses_a_late_canary(hanging: str, working: str | None) -> None:
    """It has to be the network in question that works: of a network's canary itself, of the pipeline's the UNet,
    which has none."""
    counts = dict.fromkeys(MODELS, 5)

    def metrics(_: Received) -> Answer:
        if working:
            counts[working] += 1
        lines = [f'nv_inference_exec_count{{model="{name}",version="1"}} {count}' for name, count in counts.items()]
        return Answer(body="\n".join(lines).encode())

    async def run(url: str) -> Monitor:
        server = Server()
        monitor = Monitor(server, FAMILY, metrics_url=url, interval=0, timeout=0.2)
        try:
            await monitor._check()
            assert monitor.ready
            server.hanging = hanging
            if excused:
                await monitor._check()
            else:
                with pytest.raises(NetworkError, match=f"a small inference on {hanging} failed: no answer in 0.2 s"):
                    await monitor._check()
        finally:
            await monitor._http.aclose()
        return monitor

    excused = working == {"sd15": "sd15_unet", "sd15_vae_decoder": "sd15_vae_decoder"}[hanging]
    with loopback(metrics) as here:
        monitor = asyncio.run(run(here.url))
    assert monitor.canary_failures == (0 if excused else 1)


def test_retry_after_is_what_is_left_of_a_start_as_long_as_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is away, comes back after 12 s, is lost again, and takes 30 s this time."""
    script = iter([(100, "away"), (104, "away"), (112, "up"), (150, "away"), (155, "away"), (170, "away"), (180, "up")])
    clock = {"now": 100.0}
    told: list[tuple[float, int, int]] = []

    class Restarting(Server):
        async def models(self) -> dict[str, bool]:
            now, state = next(script, (None, ""))
            if now is None:
                over.set()
                await asyncio.sleep(3600)
            clock["now"] = now
            told.append((now, monitor.retry_after, self.retry_after()))
            if state == "away":
                raise NotReady("away", retry_after=1)
            return await super().models()

    async def run(url: str) -> None:
        nonlocal monitor, over
        over = asyncio.Event()
        monitor = Monitor(Restarting(), FAMILY, metrics_url=url, interval=0, timeout=60)
        watching = asyncio.create_task(monitor.run())
        await over.wait()
        monitor._down("a test")
        with pytest.raises(NotReady) as refused:
            monitor.require()
        assert refused.value.retry_after == monitor.retry_after == 30
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    monitor: Monitor
    over: asyncio.Event
    monkeypatch.setattr("proxy.readiness.time", SimpleNamespace(monotonic=lambda: clock["now"]))
    monkeypatch.setattr("proxy.readiness._POLL_SECONDS", 0)
    with loopback(lambda _: Answer()) as here:
        asyncio.run(run(here.url))
    assert [now for now, *_ in told] == [100, 104, 112, 150, 155, 170, 180]
    assert [seconds for _, seconds, _ in told] == [20, 16, 8, 12, 7, 5, 5]
    assert all(seconds == gateways for _, seconds, gateways in told)


def test_retry_after_does_not_learn_from_a_start_of_the_proxy_alone() -> None:
    """Triton was there all the time: the next one that is lost takes as long as ever."""

    async def run(url: str) -> int:
        monitor = Monitor(Server(), FAMILY, metrics_url=url, interval=0, timeout=60)
        await monitor._check()
        await monitor._http.aclose()
        return monitor.retry_after

    with loopback(lambda _: Answer()) as here:
        assert asyncio.run(run(here.url)) == 20


def test_a_cancellation_that_comes_with_the_answer_ends_the_watch() -> None:
    """With `asyncio.wait_for` Python before 3.12 lost it, and a stop waited for ever."""

    class Asked(Server):
        def __init__(self) -> None:
            super().__init__()
            self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.asked = asyncio.Event()

        async def stream(
            self, model: str, inputs: Mapping[str, Any], *, request_id: str = "", can_stop: bool = True
        ) -> AsyncGenerator[dict[str, Array], None]:
            self.asked.set()
            await self.answer
            yield {}

    async def scenario() -> None:
        server = Asked()
        monitor = Monitor(server, FAMILY, metrics_url="http://127.0.0.1:1", interval=3600, timeout=3600)
        watching = asyncio.ensure_future(monitor.run())
        await server.asked.wait()
        server.answer.set_result(None)
        for _ in range(20):  # wherever in the chain of awaits the answer is when the cancellation comes
            await asyncio.sleep(0)
            if watching.cancel():
                break
        done, _ = await asyncio.wait({watching}, timeout=30)
        assert done, "the watch goes on"

    asyncio.run(scenario())
