"""Is Triton really able to work? A loaded model may have a dead stub behind it; only an inference tells."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence

import httpx

from darkroom.errors import DarkroomError, NetworkError, NotReady
from darkroom.serving.networks import ModelSpec
from proxy.gateway import Gateway
from proxy.network_metrics import Ranks, executions_of, providers_of, ranks_of
from proxy.waiting import at_most

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_FIRST_RECOVERY = 20.0
"""Seconds that a start of Triton takes, until one was measured."""
_LATE_SECONDS = 5
"""When to ask again if this start takes longer than the last one did."""


class Monitor:
    """Watches Triton: polls the models' states every second, and runs every model's canary when they come up
    and then every `interval` seconds.

    Canaries wait behind the work that is there. One whose time is up while that work goes on is no sign of anything.

    :param families: what is known of the models; of these the ones in Triton's repository are expected to work.
    :param timeout: seconds that one canary may take.
    """

    def __init__(
        self,
        gateway: Gateway,
        families: Mapping[str, tuple[ModelSpec, ...]],
        *,
        metrics_url: str,
        interval: float,
        timeout: float,
    ) -> None:
        self._gateway = gateway
        self._specs = {spec.name: spec for specs in families.values() for spec in specs}
        self._proven = {spec.name: _proven_by(spec, specs) for specs in families.values() for spec in specs}
        self._metrics_url = metrics_url
        self._http = httpx.AsyncClient(timeout=5, trust_env=False)  # one: making one costs more than a reading
        self._interval = interval
        self._timeout = timeout
        self._checked = 0.0
        self.ready = False
        self._ready_since: float | None = None  # time.monotonic
        self.reason = "Triton is starting."
        self.models: dict[str, bool] = {}
        self.providers: dict[str, str] = {}
        self.ranks: dict[str, Ranks] = {}
        self.canary_failures = 0
        self._down_since = time.monotonic()
        self._was_away = False
        self._recovery = _FIRST_RECOVERY
        gateway.retry_after = lambda: self.retry_after

    @property
    def retry_after(self) -> int:
        """Seconds until everything works again: what the last recovery took, less what has passed of this one."""
        passed = 0.0 if self.ready else time.monotonic() - self._down_since
        return math.ceil(self._recovery - passed) if passed < self._recovery else _LATE_SECONDS

    @property
    def ready_for(self) -> float | None:
        """Seconds; None while it is not ready."""
        return None if self._ready_since is None else time.monotonic() - self._ready_since

    def require(self) -> None:
        """:raises NotReady: the models are not all working."""
        if not self.ready:
            raise NotReady(f"The service is not ready: {self.reason}", retry_after=self.retry_after)

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
                self._was_away = True
            except DarkroomError as error:
                self._down(error.message)
            except Exception:
                log.exception("the readiness check failed")
                self._down("the readiness check failed")
            await asyncio.sleep(_POLL_SECONDS)

    def _down(self, reason: str) -> None:
        if self.ready or reason != self.reason:
            log.warning("not ready: %s", reason)
        if self.ready:
            self._down_since, self._was_away = time.monotonic(), False
        self.ready, self._ready_since, self.reason = False, None, reason

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
            self._ready_since = time.monotonic()
            if self._was_away:  # else only the proxy was started again, or a canary was late
                self._recovery = self._ready_since - self._down_since
            await self.read_metrics()
            log.info("ready: %s", ", ".join(f"{m} ({self.providers.get(m, 'pipeline')})" for m in self.models))
        self.ready, self.reason = True, ""

    async def _canary(self, spec: ModelSpec) -> None:
        if spec.canary is None:
            return
        before = await self._executions(spec) if self.ready else None
        try:
            await at_most(self._timeout, self._consume(spec))
        except NotReady:
            raise
        except (DarkroomError, asyncio.TimeoutError) as error:
            if isinstance(error, asyncio.TimeoutError) and before and await self._executions(spec) > before:
                log.warning("%s works, but a small inference waited %g s behind other work", spec.name, self._timeout)
                return
            self.canary_failures += 1
            why = error.message if isinstance(error, DarkroomError) else f"no answer in {self._timeout:g} s"
            raise NetworkError(f"a small inference on {spec.name} failed: {why}") from error

    async def _consume(self, spec: ModelSpec) -> None:
        model, inputs = spec.canary_model or spec.name, spec.canary() if spec.canary else {}
        can_stop = bool(spec.canary_model) or not spec.is_network
        async for _ in self._gateway.stream(model, inputs, request_id="canary", can_stop=can_stop):
            pass

    async def _executions(self, spec: ModelSpec) -> int:
        """Batches that those networks have run which the model's canary is to prove; 0 if that cannot be read."""
        text = await self._read_metrics()
        return sum(executions_of(text, name) for name in self._proven[spec.name])

    async def read_metrics(self) -> None:
        """Bring `providers` and `ranks` up to date, from what the networks publish on Triton's metrics endpoint."""
        text = await self._read_metrics()
        self.ranks = ranks_of(text)
        self.providers = providers_of(text) or self.providers  # where they run does not change much

    async def _read_metrics(self) -> str:
        """Triton's metrics; empty while they cannot be read."""
        try:
            return (await self._http.get(self._metrics_url)).text
        except httpx.HTTPError as error:
            if self.ready:
                log.warning("Triton's metrics cannot be read (%s)", type(error).__name__)
            return ""


def _proven_by(spec: ModelSpec, family: Sequence[ModelSpec]) -> tuple[str, ...]:
    """The networks that work if the model's canary is answered, and of which nothing else tells: a network itself; of
    a pipeline's those without a canary, or all if they have one each."""
    if spec.is_network:
        return (spec.name,)
    networks = [network for network in family if network.is_network]
    return tuple(one.name for one in [n for n in networks if n.canary is None] or networks)
