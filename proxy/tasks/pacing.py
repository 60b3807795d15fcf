"""How often DBOS looks into its queue: often while there is work, seldom while there is none, at once when it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BUSY_SECONDS = 10.0
"""How long after the last sign of work DBOS looks as often as it wants to."""
_IDLE_SECONDS = 5.0
"""Between two looks, while there is nothing to find."""


class Pace:
    """Whether there is work, for the threads that look for it."""

    def __init__(self) -> None:
        self._running = 0
        self._last = time.monotonic()
        self.changed = threading.Condition()

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
        with self.changed:
            self.changed.notify_all()

    def govern(self, event: threading.Event) -> None:
        """Slow down, while there is no work, the threads of DBOS that wait for this event between two looks.

        They have begun, and a wait that has begun ends as it would have: only the next one is ours.
        """
        # DBOS makes the events and hands them to its threads before anybody else sees them, so they cannot be replaced.
        # Its own setting of the interval, which can be changed while it runs, does not end a wait that has begun: a
        # task that comes to an idle service would wait for all of it. And a setting is a write to the database.
        vars(event)["pace"] = self
        event.__class__ = PacedEvent


class PacedEvent(threading.Event):
    """An event whose waiters can be woken up without its being set, and that makes them wait longer while it is idle.

    :ivar pace: see `Pace.govern`.
    """

    pace: Pace

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set; see the class for when this returns besides."""
        if timeout is not None and self.pace.idle:
            timeout = max(timeout, _IDLE_SECONDS)
        with self.pace.changed:
            if not self.is_set():
                self.pace.changed.wait(timeout)
        return self.is_set()

    def set(self) -> None:
        """Let everybody go on who waits, for good."""
        super().set()
        with self.pace.changed:
            self.pace.changed.notify_all()
