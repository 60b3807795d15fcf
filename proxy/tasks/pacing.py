"""How often DBOS looks into its queue: often while there is work, seldom while there is none, at once when it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BUSY_SECONDS = 10.0
"""So long after the last sign of work DBOS looks as often as it wants to."""
_IDLE_SECONDS = 5.0
"""Between two looks, while there is nothing to find."""


class Pace:
    """Whether there is work, for the threads that look for it."""

    def __init__(self) -> None:
        self._running = 0
        self._last = time.monotonic()
        self._waiting: list[PacedEvent] = []

    @property
    def idle(self) -> bool:
        """Nothing runs, and nothing has come for a while."""
        return not self._running and time.monotonic() - self._last > _BUSY_SECONDS

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work is going on."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._last = time.monotonic()

    def wake(self) -> None:
        """Work has come: whoever waits looks now."""
        self._last = time.monotonic()
        for event in self._waiting:
            event.wake()

    def govern(self, event: threading.Event) -> None:
        """Slow down, while there is no work, the threads of DBOS that wait for this event between two looks."""
        # They are inside its `wait` already, or about to be. A subclass without fields of its own can take its place.
        event.__class__ = PacedEvent
        assert isinstance(event, PacedEvent)
        event.pace = self
        self._waiting.append(event)


class PacedEvent(threading.Event):
    """An event whose waiters can be woken up without its being set, and that makes them wait longer while it is idle.

    :ivar pace: set by `Pace.govern`.
    """

    pace: Pace

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set; see the class for when this returns besides."""
        if timeout is not None and self.pace.idle:
            timeout = max(timeout, _IDLE_SECONDS)
        with self._cond:  # type: ignore[attr-defined]
            if not self._flag:  # type: ignore[attr-defined]
                self._cond.wait(timeout)  # type: ignore[attr-defined]
            return bool(self._flag)  # type: ignore[attr-defined]

    def wake(self) -> None:
        """Let everybody go on who waits."""
        with self._cond:  # type: ignore[attr-defined]
            self._cond.notify_all()  # type: ignore[attr-defined]
