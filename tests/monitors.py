"""Monitors for tests without a Triton."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from darkroom.errors import NetworkError
from darkroom.registry import families
from darkroom.serving.networks import Array
from proxy.gateway import Gateway
from proxy.presence import EVERYTHING, Presence
from proxy.readiness import Monitor
from tests.unit.loopback import Answer, Received, loopback

FAMILIES = {name: family.specs for name, family in families().items()}
PICTURES = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
PHOTOS = tuple(f"{name}.photos" for name in PICTURES)
UPSCALE = ("upscale", "realesrgan_animevideov3_x2", "realesrgan_x4plus")


class Ready(Monitor):
    """Every pipeline is ready, as long as `all_ready` is true."""

    all_ready = True

    def ready_of(self, pipeline: str) -> bool:
        return self.all_ready


class Server(Gateway):
    """Answers canaries, but for the models that are told to hang, to fail or to load.

    :ivar asked: models and how often each was asked.
    """

    def __init__(self, *models: str) -> None:
        super().__init__("127.0.0.1:1")
        self.index = dict.fromkeys(models or PICTURES, True)
        self.loaded: set[str] = set()
        self.hanging: set[str] = set()
        self.failing: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.inputs: dict[str, Mapping[str, Any]] = {}
        self.broken_off: list[str] = []

    async def models(self) -> dict[str, bool]:
        return dict(self.index)

    async def is_loaded(self, model: str) -> bool:
        return model in self.loaded

    def break_off(self, model: str) -> None:
        self.broken_off.append(model)

    async def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        request_id: str = "",
        client: str = "",
        can_stop: bool = True,
    ) -> AsyncGenerator[dict[str, Array], None]:
        self.asked[model] += 1
        self.inputs[model] = inputs
        if model in self.failing:
            raise NetworkError("broken")
        if model in self.hanging:
            await asyncio.sleep(3600)
        yield {}
        self.answered[model] += 1


Scenario = Callable[[Monitor, Server], Awaitable[None]]


def watched(
    scenario: Scenario,
    *models: str,
    metrics: Callable[[Received], Answer] = lambda _: Answer(),
    interval: float = 0,
    timeout: float = 60,
    presence: Presence = EVERYTHING,
) -> None:
    """Run a scenario with a monitor that looks when it is told to."""

    async def run(url: str) -> None:
        server = Server(*models)
        monitor = Monitor(server, FAMILIES, metrics_url=url, interval=interval, timeout=timeout, presence=presence)
        try:
            await asyncio.wait_for(scenario(monitor, server), 60)
        finally:
            for state in monitor.states.values():
                state.stop_check()
            await monitor.checked()
            await monitor._http.aclose()
            await server.close()

    with loopback(metrics) as here:
        asyncio.run(run(here.url))


async def look(monitor: Monitor) -> None:
    await monitor.look()
    await monitor.checked()
