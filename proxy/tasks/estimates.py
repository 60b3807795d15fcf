"""How long tasks take: what is learnt of each kind, and what that says of a queue. Plain functions, without a database.

A task's *demand* is what it takes alone, in seconds. Beside others it has a share of the machine (`proxy.load.shares`),
and lasts until its shares come to its demand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from proxy.load import GAIN_RANGE, Used, shares

_FORGETTING = 0.85
"""What is left of the weight of an observation when the next one comes."""
_SPLIT = 0.3
"""Weight of the usual relation between what an image costs and what a unit costs, where no observation tells them
apart."""
_USUAL_SPLIT = 8.0
"""An image costs as much as so many units: text encoder, decoder and PNG against steps."""
_FIRST = 0.3
"""Weight of the first observation of a kind: engines and caches warm up with it."""
_SURPRISE = math.log(2)
"""A duration further than this from the expected one counts less: something else kept the machine busy."""
_GAIN_RATE = 0.15
_SETTLED = 2.0
"""Observations of a kind before another one can be a surprise, and says something of the gain."""
_LEAST = 1e-4
_DONE = 1e-9
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What is known of a kind: demand = `image` x images + `unit` x units, fitted to observations by least squares
    of the relative error, newer ones first. The fields are the sums of that fit, and JSON can hold them."""

    weight: float = 0.0
    pp: float = 0.0
    pu: float = 0.0
    uu: float = 0.0
    p: float = 0.0
    u: float = 0.0
    split: float = _USUAL_SPLIT

    @property
    def costs(self) -> tuple[float, float]:
        """Seconds per image and per unit; neither is negative."""
        if self.weight <= 0:
            return 0.0, 0.0
        # One more equation, of little weight: image = split x unit.
        typical = _SPLIT * self.pp
        pp, pu, uu = self.pp + typical, self.pu - typical * self.split, self.uu + typical * self.split**2
        determinant = pp * uu - pu * pu
        if determinant > 0:
            image = (self.p * uu - self.u * pu) / determinant
            unit = (self.u * pp - self.p * pu) / determinant
            if image >= 0 and unit >= 0:
                return image, unit
        if self.uu > 0 and self.u * self.u * self.pp >= self.p * self.p * self.uu:  # the one that explains more
            return 0.0, self.u / self.uu
        return self.p / self.pp, 0.0

    def demand(self, images: float, units: float) -> float:
        """Seconds of such a task alone."""
        image, unit = self.costs
        return image * images + unit * units

    def observed(self, images: float, units: float, seconds: float, *, company: float = 0.0) -> Speed:
        """With one more observation.

        :param seconds: the demand that was measured.
        :param company: the logarithm of how many ran at once: the more they were, the less it says.
        """
        seconds = max(seconds, _LEAST)
        expected = max(self.demand(images, units), _LEAST) if self.weight else seconds
        surprise = abs(math.log(seconds / expected))
        weight = (1.0 if self.weight else _FIRST) / (1 + company**2)
        if self.weight > _SETTLED:
            weight *= _SURPRISE / max(surprise, _SURPRISE)
        # Relative to the middle of both: to the duration alone, short ones would count most, to the expected one, long.
        scale, kept = math.sqrt(seconds * expected), _FORGETTING**weight
        p, u, y = images / scale, units / scale, seconds / scale
        return replace(
            self,
            weight=self.weight * kept + weight,
            pp=self.pp * kept + weight * p * p,
            pu=self.pu * kept + weight * p * u,
            uu=self.uu * kept + weight * u * u,
            p=self.p * kept + weight * p * y,
            u=self.u * kept + weight * u * y,
        )

    def scaled(self, factor: float) -> Speed:
        """Of tasks that take `factor` times as long."""
        squares = {name: getattr(self, name) / factor**2 for name in ("pp", "pu", "uu")}
        return replace(self, p=self.p / factor, u=self.u / factor, **squares)

    def as_json(self) -> dict[str, float]:
        """The fields."""
        return asdict(self)


Speeds = Mapping[tuple[str, str], Speed]
"""By operation and kind."""


def speed_of(speeds: Speeds, operation: str, kind: str) -> Speed | None:
    """What is known of a kind, else of the one that is most like it: pixels by pixels, as far as the names tell."""
    if (operation, kind) in speeds:
        return speeds[operation, kind]
    others = [(other, speed) for (name, other), speed in speeds.items() if name == operation and speed.weight > 0]
    if not others:
        return None
    (area, rest), best = _parts(kind), []
    for other, speed in others:
        other_area, other_rest = _parts(other)
        factor = area / other_area if area and other_area else 1.0
        unlike = (other_rest != rest, not (area and other_area), abs(math.log(factor)), -speed.weight)
        best.append((unlike, factor, speed))
    _, factor, speed = min(best, key=lambda one: one[0])
    return speed.scaled(factor)


def _parts(kind: str) -> tuple[int, str]:
    """The pixels that a kind names, or 0, and the rest of its name."""
    found = _SIZE.match(kind)
    return (int(found[1]) * int(found[2]), kind[found.end() :]) if found else (0, kind)


def learnt_gain(gain: float, speed: Speed, images: float, units: float, used: Used) -> float:
    """The gain of `proxy.load.shares` after a task that had company: it ended sooner than that kind should have, so
    that the machine does more at once than was thought, or later."""
    if speed.weight < _SETTLED or not used.company:
        return gain
    error = math.log(max(speed.demand(images, units), _LEAST) / max(used.seconds, _LEAST))
    error = max(-_SURPRISE, min(_SURPRISE, error))
    low, high = GAIN_RANGE
    return max(low, min(high, gain + _GAIN_RATE * error * used.company / (1 + used.company**2)))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task, or a direct request, in a queue.

    :param id: of the task; "" for a direct request.
    :param group, turn: see `proxy.load.Sharing`.
    :param left: seconds of its work alone that remain.
    :param exclusive: jobs with the same key run one at a time; "" = with any others.
    """

    id: str = ""
    group: str = ""
    turn: float = 0.0
    left: float
    exclusive: str = ""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """When jobs end, in seconds from now.

    :param ends: by id.
    :param moments: all ends, the first one first: each makes room for one more.
    """

    ends: dict[str, float]
    moments: list[float]


def forecast(
    running: Iterable[Job], waiting: Sequence[Job], *, slots: int, gain: float = 0.0, machines: int = 1
) -> Forecast:
    """Play what will happen: who waits begins, in that order, as soon as there is a slot, and no other job with the
    same key runs.

    :param slots: how many run at a time, on all machines together.
    """
    at, ahead = 0.0, list(waiting)
    active, ends, moments = list(running), dict[str, float](), list[float]()
    left = [job.left for job in active]
    while True:
        while len(active) < slots and (job := _next_job(ahead, active)) is not None:
            active.append(job)
            left.append(job.left)
        if not active:
            return Forecast(ends=ends, moments=moments)
        rates = shares(active, gain, machines)
        passed = max(0.0, min(rest / rate for rest, rate in zip(left, rates, strict=True)))
        at += passed
        left = [rest - rate * passed for rest, rate in zip(left, rates, strict=True)]
        for index in reversed(range(len(active))):
            if left[index] <= _DONE:
                moments.append(at)
                ends[active[index].id] = at
                del active[index], left[index]


def _next_job(waiting: list[Job], active: Sequence[Job]) -> Job | None:
    """Take the first job that may begin out of those that wait."""
    taken = {job.exclusive for job in active if job.exclusive}
    found = next((index for index, job in enumerate(waiting) if job.exclusive not in taken), None)
    return None if found is None else waiting.pop(found)


def speed_from(stored: Mapping[str, Any]) -> Speed:
    """What `Speed.as_json` gave."""
    return Speed(**{name: float(stored[name]) for name in Speed.__dataclass_fields__ if name in stored})
