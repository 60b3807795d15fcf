"""The proxy without a Triton beside it (SERVE_ONLY=proxy), brought up, kept up, and drained."""

from __future__ import annotations

import logging
import sys

import httpx

from darkroom.settings import Settings
from supervisor.child import Child
from supervisor.preflight import preflight
from supervisor.supervision import MALLOC, Supervision, address_of

log = logging.getLogger("darkroom")

_TICK = 0.5


class ProxyAlone(Supervision):
    """Runs the proxy until `stopping` is set. Triton, or each of several, has a supervisor of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, restarts=("proxy",))
        self.proxy = self._child = Child("proxy", [sys.executable, "-m", "proxy"], {**MALLOC, **settings.environment()})

    async def run(self) -> None:
        """Start, watch, and drain and stop after `stopping` is set.

        :raises SetupError: the machine is not ready to serve, or the proxy ends before it has answered.
        """
        preflight(self.settings)
        url = address_of(self.settings.host, self.settings.port)
        try:
            self._tally.begin()
            await self._child.start()
            async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False) as client:
                while not self.stopping.is_set():
                    if not self._child.alive:
                        await self._revive(self._child)
                    elif not self.ready and await _answers(client):
                        log.info("the proxy is ready: %s (documentation: /docs)", url)
                        self.ready = True
                    await self._pause(_TICK)
        finally:
            await self._stop_proxy()


async def _answers(client: httpx.AsyncClient) -> bool:
    """Whether the proxy answers; whether its Tritons are ready is theirs."""
    try:
        await client.get("/health")
    except httpx.HTTPError:
        return False
    return True
