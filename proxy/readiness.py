"""Is Triton really able to work? A loaded model may have a dead stub behind it; only an inference tells."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx

from darkroom.errors import DarkroomError, NetworkError, NotReady
from darkroom.networks import ModelSpec
from proxy.gateway import Gateway
from proxy.network_metrics import Ranks, providers_of, ranks_of

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class Monitor:
    """Watches Triton: polls the models' states every second, and runs every model's canary when they come up
    and then every `interval` seconds.

    :param specs: what is known of the models; of these the ones in Triton's repository are expected to work.
    :param timeout: seconds that one canary may take.
    """

    def __init__(
        self, gateway: Gateway, specs: tuple[ModelSpec, ...], *, metrics_url: str, interval: float, timeout: float
    ) -> None:
        self._gateway = gateway
        self._specs = {spec.name: spec for spec in specs}
        self._metrics_url = metrics_url
        self._http = httpx.AsyncClient(timeout=5, trust_env=False)  # one: making one costs more than a reading
        self._interval = interval
        self._timeout = timeout
        self._checked = 0.0
        self.ready = False
        self.ready_since: float | None = None  # seconds since the epoch
        self.reason = "Triton is starting."
        self.models: dict[str, bool] = {}
        self.providers: dict[str, str] = {}
        self.ranks: dict[str, Ranks] = {}
        self.canary_failures = 0

    def require(self) -> None:
        """:raises NotReady: the models are not all working."""
        if not self.ready:
            raise NotReady(f"The service is not ready: {self.reason}", retry_after=5)

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            await self._watch()
        finally:
            await self._http.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                await self._check()
            except NotReady as error:
                self.canary_failures = 0  # Triton is away or loading: what failed before was another one
                self._down(error.message)
            except DarkroomError as error:
                self._down(error.message)
            except Exception:
                log.exception("the readiness check failed")
                self._down("the readiness check failed")
            await asyncio.sleep(_POLL_SECONDS)

    def _down(self, reason: str) -> None:
        if self.ready or reason != self.reason:
            log.warning("not ready: %s", reason)
        self.ready, self.ready_since, self.reason = False, None, reason

    async def _check(self) -> None:
        states = await self._gateway.models()
        self.models = {name: loaded for name, loaded in states.items() if name in self._specs}
        waiting = [name for name, loaded in self.models.items() if not loaded]
        if waiting or not self.models:
            raise NotReady(f"models are loading: {', '.join(waiting) or 'none is there yet'}.")
        if self.ready and time.monotonic() - self._checked < self._interval:
            return
        for name in self.models:
            await self._canary(self._specs[name])
        self.canary_failures = 0
        self._checked = time.monotonic()
        if not self.ready:
            self.ready_since = time.time()
            await self.read_metrics()
            log.info("ready: %s", ", ".join(f"{m} ({self.providers.get(m, 'pipeline')})" for m in self.models))
        self.ready, self.reason = True, ""

    async def _canary(self, spec: ModelSpec) -> None:
        if spec.canary is None:
            return
        try:
            await asyncio.wait_for(self._consume(spec.canary_model or spec.name, spec.canary()), self._timeout)
        except NotReady:
            raise
        except (DarkroomError, asyncio.TimeoutError) as error:
            self.canary_failures += 1
            why = error.message if isinstance(error, DarkroomError) else f"no answer in {self._timeout:g} s"
            raise NetworkError(f"a small inference on {spec.name} failed: {why}") from error

    async def _consume(self, model: str, inputs: Mapping[str, Any]) -> None:
        async for _ in self._gateway.stream(model, inputs, request_id="canary"):
            pass

    async def read_metrics(self) -> None:
        """Bring `providers` and `ranks` up to date, from what the networks publish on Triton's metrics endpoint."""
        try:
            text = (await self._http.get(self._metrics_url)).text
        except httpx.HTTPError as error:
            if self.ready:
                log.warning("Triton's metrics cannot be read (%s)", type(error).__name__)
            self.ranks = {}  # where the networks run does not change much, whether ranks live does
            return
        self.providers, self.ranks = providers_of(text), ranks_of(text)
