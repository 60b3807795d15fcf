"""Loading models again without a restart, from the end of a stub to the next answer of their canaries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.served import Served

_POLL_TWICE = 3.0
"""Seconds after which the server has certainly noticed a removed link, if the model's state does not show it."""
_RESTS = (30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds between attempts with a model that still fails after a restart of the server."""


class ReloadFailed(Exception):
    """Models could not be loaded again; the message says why."""

    def __init__(self, models: Iterable[str], why: str) -> None:
        super().__init__(why)
        self.models = frozenset(models)


class LastResort:
    """Models that still fail after a restart of the server, and when each of them is tried again.

    A restart interrupts every family, so it is done once for a model. A model that fails on the new server as well is
    tried again alone, while the others go on. All times are `time.monotonic`.
    """

    def __init__(self) -> None:
        self._restarted_for: set[str] = set()
        self._rests: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def restart(self, models: Iterable[str]) -> None:
        """Record that the server is restarted because of these models."""
        self._restarted_for |= set(models)

    def did_not_help(self, models: Iterable[str]) -> bool:
        """Whether the server was already restarted for all of these models."""
        return self._restarted_for.issuperset(models)

    def rest(self, models: Iterable[str]) -> float:
        """Do not try these models for a time that grows with each call; returns it in seconds."""
        seconds = 0.0
        for model in models:
            count = self._rests[model] = self._rests.get(model, 0) + 1
            seconds = max(seconds, _RESTS[min(count, len(_RESTS)) - 1])
        self._until |= dict.fromkeys(models, time.monotonic() + seconds)
        return seconds

    def is_resting(self, model: str) -> bool:
        """Whether a model is not to be tried now."""
        return time.monotonic() < self._until.get(model, 0.0)

    def works(self, models: Iterable[str]) -> None:
        """Forget the failures of models that work."""
        for model in models:
            self._restarted_for.discard(model)
            self._rests.pop(model, None)
            self._until.pop(model, None)


class Reloads:
    """A group of models that are loaded again together. All times are `time.monotonic`.

    :ivar models: the group; empty if nothing is being loaded.
    :ivar limit: maximum number of seconds for it.
    """

    def __init__(self, served: Served, limit: float) -> None:
        self._served = served
        self._begun = 0.0
        self._linked: float | None = None
        self._were_loaded: set[str] = set()
        self.models: set[str] = set()
        self.limit = limit

    def forget(self) -> None:
        """Stop waiting, because the server was restarted."""
        self.models = set()

    def give_up(self) -> None:
        """Stop waiting. The models stay in the server's repository, so that the server notices new files."""
        self._served.add(self.models)
        self.models = set()

    def begin(self, models: set[str], health: Mapping[str, Any]) -> None:
        """Unload models.

        :param health: the latest answer of the proxy's /health.
        """
        self._served.remove(models)
        self.models, self._begun, self._linked = models, time.monotonic(), None
        self._were_loaded = {model for model in models if health.get("models", {}).get(model)}

    def step(self, health: Mapping[str, Any], failed: Mapping[str, str]) -> float | None:
        """Load the models once all of them are unloaded, because a pipeline looks for its networks when it loads.

        :param failed: the models that did not load, with the reasons.
        :returns: the duration in seconds once all of them work; None before.
        :raises ReloadFailed: one of them does not load, or the limit has passed.
        """
        now = time.monotonic()
        for model in self.models & failed.keys():
            raise ReloadFailed(self.models, f"{model} does not load: {failed[model]}")
        if self._linked is None:
            if all(self._is_unloaded(model, health, now) for model in self.models):
                self._served.add(self.models)
                self._linked = now
        elif all(_is_ready_since(model, health, now - self._linked) for model in self.models):
            self.models = set()
            return now - self._begun
        if now - self._begun > self.limit:
            names = ", ".join(sorted(self.models))
            raise ReloadFailed(self.models, f"{names} did not come back within {self.limit:.0f} s")
        return None

    def _is_unloaded(self, model: str, health: Mapping[str, Any], now: float) -> bool:
        if health.get("models", {}).get(model) is not False:
            return False
        return model in self._were_loaded or now - self._begun > _POLL_TWICE


def _is_ready_since(model: str, health: Mapping[str, Any], seconds: float) -> bool:
    """Whether all groups that have the model became ready in the last `seconds`."""
    groups = [family for family in health.get("families", {}).values() if model in family["models"]]
    return bool(groups) and all(group["ready_for"] is not None and group["ready_for"] < seconds for group in groups)
