"""Models that are loaded again alone, from the death of a stub to the next answer of their canaries."""

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
    """Models did not come back; the message says why."""

    def __init__(self, models: Iterable[str], why: str) -> None:
        super().__init__(why)
        self.models = frozenset(models)


class LastResort:
    """Models that still fail after a restart of the server, and when each of them is tried again.

    A restart takes every family down. It is worth that once; a model that fails on the new server as well is tried
    alone from then on, and the others go on. All times are `time.monotonic`.
    """

    def __init__(self) -> None:
        self._restarted_for: set[str] = set()
        self._rests: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def restart(self, models: Iterable[str]) -> None:
        """The server is restarted because of these models."""
        self._restarted_for |= set(models)

    def did_not_help(self, models: Iterable[str]) -> bool:
        """Whether all of these models had their restart."""
        return self._restarted_for.issuperset(models)

    def rest(self, models: Iterable[str]) -> float:
        """Leave these models alone for the returned seconds, longer every time."""
        seconds = 0.0
        for model in models:
            count = self._rests[model] = self._rests.get(model, 0) + 1
            seconds = max(seconds, _RESTS[min(count, len(_RESTS)) - 1])
        self._until |= dict.fromkeys(models, time.monotonic() + seconds)
        return seconds

    def is_resting(self, model: str) -> bool:
        """Whether a model is left alone now."""
        return time.monotonic() < self._until.get(model, 0.0)

    def works(self, models: Iterable[str]) -> None:
        """These models work: forget their earlier failures."""
        for model in models:
            self._restarted_for.discard(model)
            self._rests.pop(model, None)
            self._until.pop(model, None)


class Reloads:
    """Some models that are loaded again together. All times are `time.monotonic`.

    :ivar limit: seconds that it may take.
    """

    def __init__(self, served: Served, limit: float) -> None:
        self._served = served
        self._begun = 0.0
        self._linked: float | None = None
        self._were_loaded: set[str] = set()
        self.models: set[str] = set()
        self.limit = limit

    def forget(self) -> None:
        """The server is another one."""
        self.models = set()

    def give_up(self) -> None:
        """Stop waiting. The models stay in the server's repository, so that new files of theirs are noticed."""
        self._served.add(self.models)
        self.models = set()

    def begin(self, models: set[str], health: Mapping[str, Any]) -> None:
        """Unload models.

        :param health: what the proxy's /health said last.
        """
        self._served.remove(models)
        self.models, self._begun, self._linked = models, time.monotonic(), None
        self._were_loaded = {model for model in models if health.get("models", {}).get(model)}

    def step(self, health: Mapping[str, Any], failed: Mapping[str, str]) -> float | None:
        """Load them when all are unloaded, because a pipeline looks for its networks when it loads.

        :param failed: models that did not load, and why.
        :returns: once all of them work, the seconds that it took.
        :raises ReloadFailed: one of them does not.
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
