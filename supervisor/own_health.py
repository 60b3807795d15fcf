"""The readiness of the Triton of this supervisor, where no proxy tells it, or only together with that of others."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from darkroom.registry import families
from darkroom.settings import Settings
from proxy.gateway import Gateway
from proxy.readiness import Monitor
from supervisor.supervision import address_of, loopback_address


class OwnHealth:
    """Watches one Triton as a proxy does."""

    def __init__(self, settings: Settings) -> None:
        metrics = address_of(settings.triton_metrics_bind, settings.triton_metrics_port)
        self._gateway = Gateway(loopback_address(settings.triton_grpc_bind, settings.triton_grpc_port))
        self._monitor = Monitor(
            self._gateway,
            {name: family.specs for name, family in families().items()},
            metrics_url=f"{metrics}/metrics",
            interval=settings.canary_interval,
            timeout=settings.canary_timeout,
        )
        self._watching = asyncio.create_task(self._monitor.run())

    async def close(self) -> None:
        """Stop watching."""
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        await self._gateway.close()

    def read(self) -> dict[str, Any]:
        """What `GET /health` of a proxy with this Triton alone would say of it."""
        return {
            "status": "healthy" if self._monitor.ready else "unhealthy",
            "models": dict(self._monitor.models),
            "families": {name: state.described() for name, state in self._monitor.states.items()},
        }
