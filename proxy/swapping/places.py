"""The units of a repository with what is known of each, and which of them have to go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from darkroom.memory.units import Unit

IDLE_SECONDS = 1.0
"""A unit without work for that long may be unloaded at once. A client that sends one request after the other leaves
short gaps."""
_TURN_SECONDS = (10.0, 60.0)
"""The least and the most time that a unit with work stays loaded while others wait."""
_TURN_PER_LOAD = 4.0
"""A unit stays loaded for so many times the seconds that loading took, so that most of the time is work."""


@dataclass(eq=False, frozen=True, kw_only=True)
class Ticket:
    """A request that waits for a unit.

    :param request: the id of the request or the task.
    :param holds: whether the unit must not be unloaded when the request has its turn, until it says so.
    """

    since: float
    request: str
    holds: bool
    admitted: asyncio.Future[None]


@dataclass(eq=False, kw_only=True)
class Place:
    """A unit and its state. All times are `time.monotonic`.

    :ivar wanted: whether it is loaded, or is to be loaded.
    :ivar swapped_out: whether its requests wait until it is loaded for them.
    :ivar closing: whether new requests wait, because it is unloaded after the running ones.
    :ivar running: the number of calls; it is not unloaded before they have ended.
    :ivar coming: requests that are about to call it: it is not idle, but its turn may end.
    :ivar since: when it was told to load or unload, or was last loaded.
    :ivar used: when it last had work.
    :ivar load_seconds: what loading it took; None before it was loaded on demand.
    """

    unit: Unit
    size: int = 0
    wanted: bool = False
    swapped_out: bool = False
    closing: bool = False
    running: int = 0
    coming: int = 0
    waiting: list[Ticket] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)
    load_seconds: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests need not wait for it."""
        return not self.swapped_out and not self.closing

    @property
    def has_work(self) -> bool:
        """Whether requests call it, are about to, or wait for it."""
        return bool(self.running or self.coming or self.waiting)

    def is_idle(self, now: float) -> bool:
        """Whether it has had no work for a moment."""
        return not self.has_work and now - self.used >= IDLE_SECONDS

    def had_its_turn(self, now: float) -> bool:
        """Whether it was loaded for long enough while others waited."""
        least, most = _TURN_SECONDS
        return now - self.since >= min(most, max(least, _TURN_PER_LOAD * (self.load_seconds or 0)))


def leaving(need: int, loaded: Iterable[Place], now: float) -> Sequence[Place] | None:
    """Return which units make room for `need` bytes: idle ones first, of those the one that was not used for the
    longest time; then those that had their turn. None if they are not enough now.

    :param loaded: those that may be unloaded.
    """
    may_go = [place for place in loaded if place.is_idle(now) or place.had_its_turn(now)]
    chosen: list[Place] = []
    for place in sorted(may_go, key=lambda one: (not one.is_idle(now), one.used if one.is_idle(now) else one.since)):
        if sum(one.size for one in chosen) < need:
            chosen.append(place)
    spare = sum(one.size for one in chosen) - need
    if spare < 0:
        return None
    for place in list(reversed(chosen)):  # a large one may have made a small one before it unnecessary
        if place.size <= spare:
            chosen.remove(place)
            spare -= place.size
    return chosen


def fitting(places: Iterable[Place], room: int) -> list[Place]:
    """Return the first units that fit together."""
    found: list[Place] = []
    for place in places:
        if place.size <= room:
            found.append(place)
            room -= place.size
    return found
