"""Checks whether the models in Triton work. A model that is loaded may have a dead stub; only an inference shows it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping

import httpx

from darkroom.errors import DarkroomError
from darkroom.serving.networks import ModelSpec, split_label
from proxy.canaries import Canaries, CanaryFailed, Counts
from proxy.gateway import Gateway
from proxy.groups import groups_of
from proxy.network_metrics import Ranks, providers_of, ranks_of, successes_of
from proxy.presence import EVERYTHING, Presence
from proxy.states import FIRST_RECOVERY, LATE_SECONDS, STARTING, Readiness, State

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class Monitor(Readiness):
    """Watches Triton: polls the models' states every second, and checks each group of models when it comes up and
    then every `interval` seconds, beside the others.

    A check runs canaries; for a ready group only those of models that have answered no request since the last check.
    Canaries wait behind other work. A canary that times out while that work makes progress does not count as a failure.

    A model that was loaded once is expected to come back for as long as this Triton runs.

    :param families: the specs of all models; those in Triton's repository are expected to work.
    :param timeout: seconds that one canary may take.
    :param place: see `State`.
    :param presence: which groups are to be loaded.
    :ivar unanswered: how often in a row Triton has not answered.
    """

    def __init__(
        self,
        gateway: Gateway,
        families: Mapping[str, tuple[ModelSpec, ...]],
        *,
        metrics_url: str,
        interval: float,
        timeout: float,
        place: str = "",
        presence: Presence = EVERYTHING,
    ) -> None:
        self._gateway = gateway
        self._place = place
        self._presence = presence
        self.unanswered = 0
        self._families = families
        self._names = {spec.name for specs in families.values() for spec in specs}
        self._metrics_url = metrics_url
        self._http = httpx.AsyncClient(
            timeout=5, trust_env=False
        )  # one client for all readings: making one costs more than a reading
        self._canaries = Canaries(gateway, self._successes, timeout)
        self._interval = interval
        self._started = time.monotonic()
        self._no_groups = STARTING
        self._restarted = False
        self._was_down = False
        self.states: dict[str, State] = {}
        self.models: dict[str, bool] = {}
        self.providers: dict[str, str] = {}
        self.ranks: dict[str, Ranks] = {}
        gateway.retry_after = self._retry_after_of_model

    @property
    def known(self) -> Mapping[str, State]:
        return self.states

    @property
    def complete(self) -> bool:
        return bool(self.models)

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            checks = [state.check for state in self.states.values() if state.check is not None]
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)
            await self._http.aclose()

    async def look(self) -> None:
        """Poll the models once, and start the checks that are due."""
        try:
            self._note(await self._loaded())
        except DarkroomError as error:
            self._triton_down(error.message)
        except Exception:
            log.exception("the readiness check failed")
            self._triton_down("the readiness check failed")
        else:
            for state in self.states.values():
                self._look_at(state)

    async def checked(self) -> None:
        """Wait for the running checks."""
        checks = [state.check for state in self.states.values() if state.check is not None]
        await asyncio.gather(*checks, return_exceptions=True)

    async def read_metrics(self) -> None:
        """Update `providers` and `ranks` from Triton's metrics endpoint."""
        text = await self.triton_metrics()
        self.ranks = ranks_of(text)
        self.providers = providers_of(text) or self.providers  # the execution providers change rarely

    @property
    def _reason(self) -> str:
        return self._no_groups

    @property
    def _unknown(self) -> int:
        passed = time.monotonic() - self._started
        return math.ceil(FIRST_RECOVERY - passed) if passed < FIRST_RECOVERY else LATE_SECONDS

    def _retry_after_of_model(self, model: str) -> int:
        found = [s.retry_after for s in self.states.values() if model in {spec.name for spec in s.group.models}]
        return max(found, default=self.retry_after)

    async def _loaded(self) -> dict[str, bool]:
        """Return whether each model is loaded. A model that is loaded again is missing for a moment.

        :raises NotReady: Triton does not answer.
        """
        index = await self._gateway.models()
        loaded = {name: state for name, state in index.items() if split_label(name)[0] in self._names}
        if self._restarted and loaded:
            self._restarted = False
            return {**dict.fromkeys(self._presence.swappable, False), **loaded}
        missing = [name for name in self.models if name not in loaded]
        found = dict.fromkeys(self._presence.swappable, False)
        for name in missing:
            if self.models[name] or name not in found:  # an unloaded one is listed again when it is to be loaded
                found[name] = await self._gateway.is_loaded(name)
        return {**found, **loaded}

    def _note(self, loaded: dict[str, bool]) -> None:
        for name, before in self.models.items():
            if before and not loaded.get(name):
                self._gateway.break_off(name)
        if loaded.keys() != self.models.keys():
            groups = groups_of(loaded, self._families)
            for name in self.states.keys() - groups.keys():
                self.states.pop(name).stop_check()
            for name, group in groups.items():
                new = State(
                    group=group,
                    place=self._place,
                    presence=self._presence,
                    down_since=self._started,
                    was_unloaded=self._was_down,
                )
                state = self.states.setdefault(name, new)
                state.group, state.seen = group, None
        self.models, self.unanswered = loaded, 0
        self._no_groups = "no model is there yet." if not self.states else ""

    def _triton_down(self, reason: str) -> None:
        self._restarted = self._was_down = True
        self.unanswered += 1
        if not self.states and reason != self._no_groups:
            log.warning("not ready%s: %s", self._place, reason)
        self._no_groups = reason
        for state in self.states.values():
            state.stop_check()
            state.unloaded(reason)

    def _look_at(self, state: State) -> None:
        loading = [spec.name for spec in state.group.models if not self.models[spec.name]]
        if not self._presence.is_wanted(state.group.name):
            state.stop_check()
            state.unloaded("not loaded; the next request loads it.")
        elif loading:
            state.stop_check()
            state.unloaded(f"models are loading: {', '.join(loading)}.")
        elif (state.check is None or state.check.done()) and (not state.ready or time.monotonic() >= state.due):
            state.check = asyncio.create_task(self._check(state))

    async def _check(self, state: State) -> None:
        """Run the canaries of a group."""
        try:
            if state.ready and state.seen is not None:
                state.seen = await self._canaries.prove_rest(state.group, state.seen)
            else:
                state.seen = await self._canaries.prove_all(state.group)
        except CanaryFailed as error:
            state.failures, state.failing = state.failures + 1, error.models
            state.down(error.message)
        except Exception:
            log.exception("the check of %s failed", state.group.name)
            state.down("the readiness check failed")
        else:
            state.failures, state.failing = 0, ()
            await self._passed(state)

    async def _passed(self, state: State) -> None:
        if state.ready:
            state.due = time.monotonic() + self._interval
            return
        await self.read_metrics()
        state.up()
        place = (list(self.states).index(state.group.name) + 1) / len(self.states)
        state.due = (
            time.monotonic() + self._interval * place
        )  # otherwise all groups would always be checked at the same time
        where = (f"{spec.name} ({self.providers.get(spec.name, 'pipeline')})" for spec in state.group.models)
        log.info("ready%s: %s", self._place, ", ".join(where))

    async def _successes(self) -> Counts:
        return successes_of(await self.triton_metrics())

    async def triton_metrics(self) -> str:
        """Triton's metrics; empty while they cannot be read."""
        try:
            return (await self._http.get(self._metrics_url)).text
        except httpx.HTTPError as error:
            if self.ready:
                log.warning("Triton's metrics%s cannot be read (%s)", self._place, type(error).__name__)
            return ""
