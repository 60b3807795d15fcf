"""Checks whether the models in Triton work. A model that is loaded may have a dead stub; only an inference shows it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from darkroom.errors import DarkroomError, NotReady
from darkroom.serving.networks import ModelSpec, split_label
from proxy.canaries import Canaries, CanaryFailed, Counts
from proxy.gateway import Gateway
from proxy.groups import Group, groups_of
from proxy.network_metrics import Ranks, providers_of, ranks_of, successes_of

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_FIRST_RECOVERY = 20.0
"""Assumed seconds of a start of Triton, before one was measured."""
_LATE_SECONDS = 5
"""Seconds for Retry-After if this start takes longer than the last one did."""
_STARTING = "Triton is starting."


@dataclass(eq=False, kw_only=True)
class State:
    """The state of a group.

    :ivar reason: why it is not ready; "" while it is.
    :ivar failures: number of consecutive failed checks.
    :ivar failing: the models that may have caused the last failure.
    """

    group: Group
    reason: str = _STARTING
    failures: int = 0
    failing: tuple[str, ...] = ()
    ready_since: float | None = None  # time.monotonic, as the others
    down_since: float
    was_unloaded: bool = False
    recovery: float = _FIRST_RECOVERY
    due: float = 0.0
    seen: Counts | None = None
    check: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the group has answered its canaries since it was last not ready."""
        return self.ready_since is not None

    @property
    def ready_for(self) -> float | None:
        """Seconds for which the group has been ready; None while it is not."""
        return None if self.ready_since is None else time.monotonic() - self.ready_since

    @property
    def retry_after(self) -> int:
        """Expected seconds until the group works: the time of the last recovery, less the time that has passed."""
        passed = 0.0 if self.ready else time.monotonic() - self.down_since
        return math.ceil(self.recovery - passed) if passed < self.recovery else _LATE_SECONDS

    def down(self, reason: str) -> None:
        """Mark the group as not ready, with the reason."""
        if self.ready or reason != self.reason:
            log.warning("%s is not ready: %s", self.group.name, reason)
        if self.ready:
            self.down_since, self.was_unloaded = time.monotonic(), False
        self.ready_since, self.reason = None, reason

    def unloaded(self, reason: str) -> None:
        """Forget earlier failures: the models are not loaded, and those that come are new ones."""
        self.down(reason)
        self.failures, self.failing, self.was_unloaded = 0, (), True

    def stop_check(self) -> None:
        """Discard the running check: its result would be out of date."""
        if self.check is not None:
            self.check.cancel()

    def up(self) -> None:
        """Mark the group as ready: its canaries were answered."""
        self.ready_since = time.monotonic()
        if self.was_unloaded:  # else only the proxy was started again, or a canary was late
            self.recovery = self.ready_since - self.down_since
        self.reason = ""


class Monitor:
    """Watches Triton: polls the models' states every second, and checks each group of models when it comes up and
    then every `interval` seconds, beside the others.

    A check runs canaries; for a ready group only those of models that have answered no request since the last check.
    Canaries wait behind other work. A canary that times out while that work makes progress does not count as a failure.

    A model that was loaded once is expected to come back for as long as this Triton runs.

    :param families: the specs of all models; those in Triton's repository are expected to work.
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
        self._families = families
        self._names = {spec.name for specs in families.values() for spec in specs}
        self._metrics_url = metrics_url
        self._http = httpx.AsyncClient(
            timeout=5, trust_env=False
        )  # one client for all readings: making one costs more than a reading
        self._canaries = Canaries(gateway, self._successes, timeout)
        self._interval = interval
        self._started = time.monotonic()
        self._reason = _STARTING
        self._restarted = False
        self._was_down = False
        self.states: dict[str, State] = {}
        self.models: dict[str, bool] = {}
        self.providers: dict[str, str] = {}
        self.ranks: dict[str, Ranks] = {}
        gateway.retry_after = self._retry_after_of_model

    @property
    def ready(self) -> bool:
        """Whether all groups are ready."""
        return bool(self.states) and not self._waiting

    @property
    def ready_for(self) -> float | None:
        """Seconds that all groups have been ready; None while one is not."""
        since = [state.ready_since for state in self.states.values()]
        known = [moment for moment in since if moment is not None]
        return time.monotonic() - max(known) if known and len(known) == len(since) else None

    @property
    def reason(self) -> str:
        """The reason why not all groups are ready; "" when they are."""
        return " ".join(dict.fromkeys(state.reason for state in self._waiting)) or ("" if self.ready else self._reason)

    @property
    def retry_after(self) -> int:
        """Seconds until everything works again."""
        return max((state.retry_after for state in self._waiting or self.states.values()), default=self._unknown)

    @property
    def canary_failures(self) -> int:
        """The largest number of consecutive failed checks of any group."""
        return max((state.failures for state in self.states.values()), default=0)

    def ready_of(self, pipeline: str) -> bool:
        """Whether a pipeline's group is ready, or not in this Triton, so that waiting is useless."""
        state = self.states.get(pipeline)
        return state.ready if state is not None else bool(self.models)

    def require(self, pipeline: str) -> None:
        """:raises NotReady: the models of that pipeline's group are not all working."""
        if not self.ready_of(pipeline):
            state = self.states.get(pipeline)
            reason, retry_after = (self.reason, self.retry_after) if not state else (state.reason, state.retry_after)
            raise NotReady(f"{pipeline} is not ready: {reason}", retry_after=retry_after)

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
    def _waiting(self) -> list[State]:
        return [state for state in self.states.values() if not state.ready]

    @property
    def _unknown(self) -> int:
        """Expected seconds until Triton is ready, before its models were ever seen."""
        passed = time.monotonic() - self._started
        return math.ceil(_FIRST_RECOVERY - passed) if passed < _FIRST_RECOVERY else _LATE_SECONDS

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
            return loaded
        missing = [name for name in self.models if name not in loaded]
        return {**{name: await self._gateway.is_loaded(name) for name in missing}, **loaded}

    def _note(self, loaded: dict[str, bool]) -> None:
        for name, before in self.models.items():
            if before and not loaded.get(name):
                self._gateway.break_off(name)
        if loaded.keys() != self.models.keys():
            groups = groups_of(loaded, self._families)
            for name in self.states.keys() - groups.keys():
                self.states.pop(name).stop_check()
            for name, group in groups.items():
                new = State(group=group, down_since=self._started, was_unloaded=self._was_down)
                state = self.states.setdefault(name, new)
                state.group, state.seen = group, None
        self.models = loaded
        self._reason = "no model is there yet." if not self.states else ""

    def _triton_down(self, reason: str) -> None:
        self._restarted = self._was_down = True
        if not self.states and reason != self._reason:
            log.warning("not ready: %s", reason)
        self._reason = reason
        for state in self.states.values():
            state.stop_check()
            state.unloaded(reason)

    def _look_at(self, state: State) -> None:
        loading = [spec.name for spec in state.group.models if not self.models[spec.name]]
        if loading:
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
        log.info("ready: %s", ", ".join(where))

    async def _successes(self) -> Counts:
        return successes_of(await self.triton_metrics())

    async def triton_metrics(self) -> str:
        """Triton's metrics; empty while they cannot be read."""
        try:
            return (await self._http.get(self._metrics_url)).text
        except httpx.HTTPError as error:
            if self.ready:
                log.warning("Triton's metrics cannot be read (%s)", type(error).__name__)
            return ""
