"""How long tasks take: measured speeds of each kind, and forecasts for a queue. Plain functions, without a database.

The *demand* of a task is the number of seconds that it takes alone. Beside others it gets a share of the machine
(`proxy.load.shares`), and ends when the sum of its shares reaches its demand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from proxy.load import GAIN_RANGE, Used, shares

_FORGETTING = 0.85
"""Factor by which each new observation reduces the weight of the earlier ones."""
_SPLIT = 0.3
"""Weight of the default ratio between the cost of an image and that of a unit. It decides while the observations do not
separate the two."""
_USUAL_SPLIT = 8.0
"""Default cost of an image (text encoder, decoder and PNG) in units (steps)."""
_FIRST = 0.3
"""Weight of the first observation of a kind, which is low because engines and caches are cold."""
_SURPRISE = math.log(2)
"""A duration that differs by more than this from the expected one counts less: other work kept the machine busy."""
_GAIN_RATE = 0.15
_SETTLED = 2.0
"""Number of observations of a kind from which on a further one is compared with the expected duration, and used to
measure the gain."""
_LEAST = 1e-4
_DONE = 1e-9
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The measured speed of a kind of tasks: demand = `image` x images + `unit` x units. It is fitted by least squares
    of the relative error, with more weight on newer observations. The fields are the sums of the fit; all of them can
    be stored as JSON."""

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
        # Use the variable that explains more.
        if self.uu > 0 and self.u * self.u * self.pp >= self.p * self.p * self.uu:
            return 0.0, self.u / self.uu
        return self.p / self.pp, 0.0

    def demand(self, images: float, units: float) -> float:
        """Seconds that such a task takes alone."""
        image, unit = self.costs
        return image * images + unit * units

    def observed(self, images: float, units: float, seconds: float, *, company: float = 0.0) -> Speed:
        """Return the speed with one more observation.

        :param seconds: the measured demand.
        :param company: the logarithm of the number of tasks that ran at once; a larger one lowers the weight.
        """
        seconds = max(seconds, _LEAST)
        expected = max(self.demand(images, units), _LEAST) if self.weight else seconds
        surprise = abs(math.log(seconds / expected))
        weight = (1.0 if self.weight else _FIRST) / (1 + company**2)
        if self.weight > _SETTLED:
            weight *= _SURPRISE / max(surprise, _SURPRISE)
        # Relative to the geometric mean of both. Relative to the measured duration alone, short observations would
        # count most; relative to the expected one, long observations.
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
        """The speed of tasks that take `factor` times as long."""
        squares = {name: getattr(self, name) / factor**2 for name in ("pp", "pu", "uu")}
        return replace(self, p=self.p / factor, u=self.u / factor, **squares)

    def as_json(self) -> dict[str, float]:
        """The fields."""
        return asdict(self)


Speeds = Mapping[tuple[str, str], Speed]
"""Speeds by operation and kind."""


def speed_of(speeds: Speeds, operation: str, kind: str) -> Speed | None:
    """The speed of a kind. If it was never measured, that of the most similar kind, scaled by the number of pixels in
    the names of the kinds."""
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
    """The number of pixels in the name of a kind (0 if it has none), and the rest of the name."""
    found = _SIZE.match(kind)
    return (int(found[1]) * int(found[2]), kind[found.end() :]) if found else (0, kind)


def learnt_gain(gain: float, speed: Speed, images: float, units: float, used: Used) -> float:
    """The updated gain of `proxy.load.shares` after a task that ran beside others. A task that ended sooner than
    expected raises the gain, one that ended later lowers it."""
    if speed.weight < _SETTLED or not used.company:
        return gain
    error = math.log(max(speed.demand(images, units), _LEAST) / max(used.seconds, _LEAST))
    error = max(-_SURPRISE, min(_SURPRISE, error))
    low, high = GAIN_RANGE
    return max(low, min(high, gain + _GAIN_RATE * error * used.company / (1 + used.company**2)))


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A task or a direct request that runs or waits.

    :param id: the id of the task; "" for a direct request.
    :param group, turn: see `proxy.load.Sharing`.
    :param left: seconds that the rest of its work takes alone.
    :param exclusive: jobs with the same key run one at a time; "" for no key.
    """

    id: str = ""
    group: str = ""
    turn: float = 0.0
    left: float
    exclusive: str = ""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """When jobs end, in seconds from now.

    :param ends: the end of each task by its id.
    :param moments: all ends in ascending order. Each one frees a slot.
    """

    ends: dict[str, float]
    moments: list[float]


def forecast(
    running: Iterable[QueuedJob], waiting: Sequence[QueuedJob], *, slots: int, gain: float = 0.0, machines: int = 1
) -> Forecast:
    """Simulate the queue. The waiting jobs begin in their order, as soon as a slot is free and no other job with the
    same key runs.

    :param slots: the number of jobs that run at a time, on all machines together.
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


def _next_job(waiting: list[QueuedJob], active: Sequence[QueuedJob]) -> QueuedJob | None:
    """Remove the first job that may begin from the waiting ones, and return it."""
    taken = {job.exclusive for job in active if job.exclusive}
    found = next((index for index, job in enumerate(waiting) if job.exclusive not in taken), None)
    return None if found is None else waiting.pop(found)


def speed_from(stored: Mapping[str, Any]) -> Speed:
    """The speed that `Speed.as_json` stored."""
    return Speed(**{name: float(stored[name]) for name in Speed.__dataclass_fields__ if name in stored})
