"""What is known of groups of models: whether each works, and for several of them together."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.errors import NotReady
from proxy.canaries import Counts
from proxy.groups import Group
from proxy.presence import EVERYTHING, Presence

log = logging.getLogger(__name__)

FIRST_RECOVERY = 20.0
"""Assumed seconds of a start of Triton, before one was measured."""
LATE_SECONDS = 5
"""Seconds for Retry-After if this start takes longer than the last one did."""
STARTING = "The inference server is starting."


@dataclass(eq=False, kw_only=True)
class State:
    """The state of a group.

    :ivar reason: why it is not ready; "" while it is.
    :ivar failures: number of consecutive failed checks.
    :ivar failing: the models that may have caused the last failure.
    :param presence: which groups are to be loaded.
    :param place: where it is, for the log: " at HOST:PORT" if there are several Tritons.
    """

    group: Group
    place: str = ""
    reason: str = STARTING
    failures: int = 0
    failing: tuple[str, ...] = ()
    ready_since: float | None = None  # time.monotonic, as the others
    down_since: float
    was_unloaded: bool = False
    recovery: float = FIRST_RECOVERY
    due: float = 0.0
    seen: Counts | None = None
    check: asyncio.Task[None] | None = None
    presence: Presence = EVERYTHING

    @property
    def ready(self) -> bool:
        """Whether the group has answered its canaries since it was last not ready."""
        return self.ready_since is not None

    @property
    def swapped_out(self) -> bool:
        """Whether it is unloaded because others need the memory: a request waits until it is loaded."""
        return self.presence.is_swapped_out(self.group.name)

    @property
    def takes_requests(self) -> bool:
        """Whether requests are run, at once or as soon as the group is loaded for them."""
        return self.ready or self.swapped_out

    @property
    def ready_for(self) -> float | None:
        """Seconds for which the group has been ready; None while it is not."""
        return None if self.ready_since is None else time.monotonic() - self.ready_since

    @property
    def retry_after(self) -> int:
        """Expected seconds until the group works: the time of the last recovery, less the time that has passed."""
        passed = 0.0 if self.ready else time.monotonic() - self.down_since
        return math.ceil(self.recovery - passed) if passed < self.recovery else LATE_SECONDS

    def down(self, reason: str) -> None:
        """Mark the group as not ready, with the reason."""
        if not self.swapped_out and (self.ready or reason != self.reason):
            log.warning("%s%s is not ready: %s", self.group.name, self.place, reason)
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
        if self.was_unloaded and not self.swapped_out:  # else only the proxy was started again, or a canary was late
            self.recovery = self.ready_since - self.down_since
        self.reason = ""

    def described(self) -> dict[str, Any]:
        """The state as `GET /health` tells it."""
        return {
            "ready": self.takes_requests,
            "loaded": not self.swapped_out,
            "ready_for": self.ready_for,
            "reason": self.reason,
            "retry_after": None if self.takes_requests else self.retry_after,
            "canary_failures": self.failures,
            "failing": self.failing,
            "models": [spec.name for spec in self.group.models],
        }


class Readiness(ABC):
    """Whether the groups of one Triton, or of several, work."""

    @property
    @abstractmethod
    def known(self) -> Mapping[str, State]:
        """The groups by name."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether every Triton has said which models it has: a group that is not known is in none of them then."""

    @property
    @abstractmethod
    def _reason(self) -> str:
        """Why there are no groups."""

    @property
    @abstractmethod
    def _unknown(self) -> int:
        """Expected seconds until there are groups."""

    def described(self) -> list[dict[str, Any]]:
        """Each Triton, as `GET /status` tells it."""
        return []

    @property
    def ready(self) -> bool:
        """Whether all groups are ready."""
        return bool(self.known) and not self._waiting

    @property
    def ready_for(self) -> float | None:
        """Seconds that all groups have been ready; None while one is not."""
        since = [state.ready_since for state in self.known.values() if state.ready or not state.swapped_out]
        known = [moment for moment in since if moment is not None]
        return time.monotonic() - max(known) if known and len(known) == len(since) else None

    @property
    def reason(self) -> str:
        """The reason why not all groups are ready; "" when they are."""
        return " ".join(dict.fromkeys(state.reason for state in self._waiting)) or ("" if self.ready else self._reason)

    @property
    def retry_after(self) -> int:
        """Seconds until everything works again."""
        return max((state.retry_after for state in self._waiting or self.known.values()), default=self._unknown)

    @property
    def canary_failures(self) -> int:
        """The largest number of consecutive failed checks of any group."""
        return max((state.failures for state in self.known.values()), default=0)

    def ready_of(self, pipeline: str) -> bool:
        """Whether a pipeline's group is ready, or in no Triton, so that waiting is useless."""
        state = self.known.get(pipeline)
        return state.takes_requests if state is not None else self.complete

    def require(self, pipeline: str) -> None:
        """:raises NotReady: the models of that pipeline's group are not all working."""
        if not self.ready_of(pipeline):
            state = self.known.get(pipeline)
            reason, retry_after = (self.reason, self.retry_after) if not state else (state.reason, state.retry_after)
            raise NotReady(f"{pipeline} is not ready: {reason}", retry_after=retry_after)

    @property
    def _waiting(self) -> list[State]:
        return [state for state in self.known.values() if not state.takes_requests]
