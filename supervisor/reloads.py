"""Models that are loaded again alone, from the death of a stub to the next answer of their canaries."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from supervisor.served import Served

_POLL_TWICE = 3.0
"""Seconds in which the server has surely seen that a link is gone, where it cannot be told from the model's state."""


class ReloadFailed(Exception):
    """A model did not come back; the message says why."""


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

    def begin(self, models: set[str], health: Mapping[str, Any]) -> None:
        """Unload models.

        :param health: what the proxy's /health said last.
        """
        self._served.remove(models)
        self.models, self._begun, self._linked = models, time.monotonic(), None
        self._were_loaded = {model for model in models if health.get("models", {}).get(model)}

    def step(self, health: Mapping[str, Any], failed: Mapping[str, str]) -> float | None:
        """Load them when all are unloaded: a pipeline that loads looks which networks there are.

        :param failed: models that did not load, and why.
        :returns: once all of them work, the seconds that it took.
        :raises ReloadFailed: one of them does not.
        """
        now = time.monotonic()
        for model in self.models & failed.keys():
            raise ReloadFailed(f"{model} does not load: {failed[model]}")
        if self._linked is None:
            if all(self._is_unloaded(model, health, now) for model in self.models):
                self._served.add(self.models)
                self._linked = now
        elif all(_is_ready_since(model, health, now - self._linked) for model in self.models):
            self.models = set()
            return now - self._begun
        if now - self._begun > self.limit:
            raise ReloadFailed(f"{', '.join(sorted(self.models))} did not come back within {self.limit:.0f} s")
        return None

    def _is_unloaded(self, model: str, health: Mapping[str, Any], now: float) -> bool:
        if health.get("models", {}).get(model) is not False:
            return False
        return model in self._were_loaded or now - self._begun > _POLL_TWICE


def _is_ready_since(model: str, health: Mapping[str, Any], seconds: float) -> bool:
    """Whether all groups that have the model became ready in the last `seconds`."""
    groups = [family for family in health.get("families", {}).values() if model in family["models"]]
    return bool(groups) and all(group["ready_for"] is not None and group["ready_for"] < seconds for group in groups)
