"""When a client that is refused should come back: a time of its own for each of them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

RETRY_AFTER_RANGE = (1, 300)
_REMEMBERED = 16
_PRIOR = 2
"""The weight of the expected interval in the average, as a number of admissions."""


class Appointments:
    """Spreads refused clients over the places that become free: the next one refused gets the next one free.

    :param clock: seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._promised: list[float] = []

    def next(self, seconds: Callable[[int], float], *, count: int = 1, most: int) -> int:
        """Whole seconds until `count` places are likely, beyond those that others were sent away to wait for.

        :param seconds: until the k-th place from now is free; k from 1.
        :param most: the number of slots: a client that is refused repeatedly is not given a later time than that.
        """
        now = self._clock()
        self._promised = [moment for moment in self._promised if moment > now]
        number = max(1, min(most, len(self._promised) + count))
        low, high = RETRY_AFTER_RANGE
        wait = min(high, max(low, math.ceil(seconds(number))))
        if len(self._promised) < most:
            self._promised.append(now + wait)
        return wait


class Flow:
    """How fast a queue moves while there is one.

    :param clock: seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moments: deque[float] = deque(maxlen=_REMEMBERED)

    def waits(self) -> None:
        """Somebody waits; the first call after `empty` begins the measurement."""
        if not self._moments:
            self._moments.append(self._clock())

    def moved(self) -> None:
        """One of those who wait has left the queue."""
        self._moments.append(self._clock())

    def empty(self) -> None:
        """Nobody waits."""
        self._moments.clear()

    def interval(self, expected: float) -> float:
        """Seconds from one to the next.

        :param expected: what it was taken for before the queue moved.
        """
        if not self._moments:
            return expected
        waited, moved = self._clock() - self._moments[0], len(self._moments) - 1
        return max(waited, _PRIOR * expected) if moved == 0 else (waited + _PRIOR * expected) / (moved + _PRIOR)
