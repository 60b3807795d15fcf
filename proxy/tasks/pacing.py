"""How often DBOS polls its queue: often while there is work, seldom while there is none, at once when work arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BUSY_SECONDS = 10.0
"""Seconds after the last work during which DBOS polls at its own interval."""
_IDLE_SECONDS = 5.0
"""Seconds between two polls while the service is idle."""


class Pace:
    """Tells the polling threads whether there is work."""

    def __init__(self) -> None:
        self._running = 0
        self._last = time.monotonic()
        self.changed = threading.Condition()

    @property
    def idle(self) -> bool:
        """Whether nothing runs, and nothing has arrived for a while."""
        return not self._running and time.monotonic() - self._last > _BUSY_SECONDS

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a task as running while the body runs."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._last = time.monotonic()

    def wake(self) -> None:
        """Make the waiting threads poll now, because work has arrived."""
        self._last = time.monotonic()
        with self.changed:
            self.changed.notify_all()

    def govern(self, event: threading.Event) -> None:
        """Slow down the DBOS threads that wait for this event between two polls, while there is no work.

        The threads have started already. A wait in progress ends as usual, and the next one is ours.
        """
        # DBOS creates the events and passes them to its threads at once, so we cannot replace them with our own.
        # DBOS's own polling interval can be changed at run time, but this does not end a wait in progress: a task that
        # arrives at an idle service would wait for all of it. Each change would also write to the database.
        vars(event)["pace"] = self
        event.__class__ = PacedEvent


class PacedEvent(threading.Event):
    """An event that can wake its waiters without being set, and makes them wait longer while the service is idle.

    :ivar pace: see `Pace.govern`.
    """

    pace: Pace

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set or a waiter is woken (see the class); returns whether it is set."""
        if timeout is not None and self.pace.idle:
            timeout = max(timeout, _IDLE_SECONDS)
        with self.pace.changed:
            if not self.is_set():
                self.pace.changed.wait(timeout)
        return self.is_set()

    def set(self) -> None:
        """Set the event, which releases all waiters for good."""
        super().set()
        with self.pace.changed:
            self.pace.changed.notify_all()
