"""Chooses the number of threads by the load that other programs put on the machine.

Threads of one operation wait for each other: where another program takes one of two cores, two threads run at a tenth
of their speed, and one thread at half of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import psutil

_EVERY = 2.0
"""Seconds between looks."""
_SPARE = 0.3
"""How much of a core others may use before it counts as theirs."""


class Manners:
    """Sets the number of threads from time to time, between 1 and `most`, to the cores that others leave."""

    def __init__(self, most: int, set_threads: Callable[[int], None]) -> None:
        self._most, self._set = most, set_threads
        self._process = psutil.Process()
        self._looked = time.monotonic()
        self._others_then = self._others_seconds()
        self._busy = 0.0
        self._threads = most
        set_threads(most)

    def look(self) -> None:
        """Adapt the number of threads. Cheap enough to be called at every step."""
        now = time.monotonic()
        if now - self._looked < _EVERY:
            return
        others = self._others_seconds()
        self._busy = 0.5 * self._busy + 0.5 * (others - self._others_then) / (now - self._looked)
        self._looked, self._others_then = now, others
        left = (psutil.cpu_count() or 1) - math.ceil(max(0.0, self._busy - _SPARE))
        threads = min(max(left, 1), self._most)
        if threads != self._threads:
            self._threads = threads
            self._set(threads)

    def _others_seconds(self) -> float:
        """Processor time that other programs have used since the machine started."""
        times = psutil.cpu_times()
        own = self._process.cpu_times()
        return float(times.user + times.nice + times.system - own.user - own.system)
