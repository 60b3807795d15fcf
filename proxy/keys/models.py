"""The types of keys and of their limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, get_args

from darkroom.errors import InvalidInput
from darkroom.request.fields import integer, shown
from proxy.callers import KEY_PREFIX, Role
from proxy.tasks.models import PRIORITIES

ROLES: tuple[str, ...] = get_args(Role)
RATE_LIMITS = (1, 10_000)
"""Requests of a rate: the time of each of the last ones is kept."""
IMAGES_LIMITS = (1, 10_000_000)
CONCURRENT_LIMITS = (1, 10_000)
NAME = r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]{0,98}[^\s\x00-\x1f\x7f])?"
"""A regular expression: the names that keys may have."""
_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86_400}
_WRITTEN = {1: "s", 60: "min", 3600: "h", 86_400: "day"}
_RATE = re.compile(r"\s*(\d{1,9})\s*/\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """At most `count` requests in any `seconds`."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate such as `60/min`.

        :raises InvalidInput: it is none, or out of range.
        """
        found = _RATE.fullmatch(text)
        seconds = _UNITS.get(found[2].lower()) if found else None
        if found is None or seconds is None:
            raise InvalidInput(
                f"rate must be a number of requests and a time, such as 60/min (of {', '.join(_UNITS)}); "
                f"got {shown(text)}.",
                param="rate",
            )
        return cls(count=integer({"rate": found[1]}, "rate", 0, RATE_LIMITS), seconds=seconds)

    def __str__(self) -> str:
        return f"{self.count}/{_WRITTEN[self.seconds]}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a key may use; None is without a limit.

    :param images_per_day: images that are accepted in a day of UTC.
    :param concurrent: requests and tasks that run and wait at a time.
    :param priority: the highest priority that tasks of the key may have, and the one that they have if they ask for
        none.
    """

    rate: Rate | None = None
    images_per_day: int | None = None
    concurrent: int | None = None
    priority: str | None = None

    @property
    def count_work(self) -> bool:
        """Whether the work of the key is counted."""
        return self.images_per_day is not None or self.concurrent is not None

    def priority_of(self, asked: str | None) -> str:
        """The priority of a task: never higher than that of the key."""
        if self.priority is None:
            return asked or "normal"
        return max(asked or self.priority, self.priority, key=PRIORITIES.index)

    def to_json(self) -> dict[str, Any]:
        """The limits by the names of the request's fields."""
        return {
            "rate": None if self.rate is None else str(self.rate),
            "images_per_day": self.images_per_day,
            "concurrent": self.concurrent,
            "priority": self.priority,
        }


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key, without its secret.

    :param id: its public name, in lists, logs and as the owner of tasks.
    :param digest: SHA-256 of the secret, in hexadecimal.
    :param created_at, revoked_at: seconds since the epoch.
    """

    id: str
    name: str
    digest: str
    role: Role
    limits: Limits
    created_at: float
    revoked_at: float | None = None

    @property
    def client(self) -> str:
        """The owner of what the key makes; see `Caller.client`."""
        return f"{KEY_PREFIX}{self.id}"


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """What a key is to be.

    :raises InvalidInput: a value is out of range.
    """

    name: str
    role: Role = "user"
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise InvalidInput(
                f"name must be 1 to 100 characters without line breaks, and not begin or end with a space; "
                f"got {shown(self.name)}.",
                param="name",
            )
        given = {"images_per_day": self.limits.images_per_day, "concurrent": self.limits.concurrent}
        for name, bounds in (("images_per_day", IMAGES_LIMITS), ("concurrent", CONCURRENT_LIMITS)):
            if given[name] is not None:
                integer(given, name, 0, bounds)
