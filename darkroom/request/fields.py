"""Fields of requests and their ranges: the checks that the `request.py` of every family shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, get_args

from darkroom.errors import InvalidInput, TooLarge
from darkroom.images import Format

Bounds = tuple[float, float]
"""The smallest and the largest value of a number; both are allowed."""

GUIDANCE_RANGE = (0.0, 50.0)
SEED_RANGE = (0, 2**63 - 1 - 1024)
"""The k-th image's seed is seed + k, and has to fit into 64 bits as well."""
SIDE_MINIMUM = 64
QUALITY_RANGE = (1, 100)
FORMATS: tuple[str, ...] = get_args(Format)
DRAWN_SEEDS = 2**32
"""Maximum of random seeds: every web UI and JavaScript can hold them."""
ANY_SEED = -1
"""The seed that web UIs send for a random seed."""
OTHER_FORMATS = {"jpg": "jpeg"}
_SHOWN = 60
"""Maximum number of characters of a value in an error message."""


class PixelLimits(Protocol):
    """Limits that say how many pixels an image may have: width times height."""

    @property
    def max_pixels(self) -> int: ...


def check_pixels(width: int, height: int, limits: PixelLimits) -> None:
    """:raises TooLarge: width times height is over the limit."""
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"width x height must be at most {limits.max_pixels:,} pixels; got {width}x{height} = {width * height:,}.",
            param="width",
        )


def shown(value: object, longest: int = _SHOWN) -> str:
    """Format a value for an error message: short and on one line; never raises."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        return _shown_integer(value, longest)
    if isinstance(value, str):
        text = repr(value[: longest + 1])
        return text if len(value) <= longest else f"{repr(value[:longest])[:-1]}...' ({len(value):,} characters)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"a file of {len(value):,} bytes"
    if isinstance(value, Mapping):
        return f"an object with {len(value):,} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,}"
    if isinstance(value, float):
        return f"{value:g}"
    return f"a {type(value).__name__}"


def _shown_integer(value: int, longest: int) -> str:
    """Format an integer. Python refuses to write more than 4,300 digits, so long ones are shortened before."""
    digits = int(abs(value).bit_length() * math.log10(2)) + 1  # or one more
    if digits <= longest:
        return str(value)
    leading = str(abs(value) // 10 ** (digits - 10))[:8]
    return f"{'-' if value < 0 else ''}{leading}... (about {digits:,} digits)"


def between(name: str, low: float, high: float, came: object, also: str = "") -> InvalidInput:
    """Return the error for a number that is out of its range.

    :param also: what else is allowed.
    """
    other = f" ({also})" if also else ""
    return InvalidInput(f"{name} must be from {_bound(low)} to {_bound(high)}{other}; got {shown(came)}.", param=name)


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def integer(
    given: Mapping[str, Any],
    name: str,
    default: int,
    bounds: Bounds,
    *,
    also: Mapping[int, str] | None = None,
) -> int:
    """A whole number.

    :param also: numbers outside of `bounds` that are allowed, and what they mean.
    :raises InvalidInput: it is outside of `bounds`.
    """
    value, others = given.get(name, default), also or {}
    text = ", ".join(f"{other} for {meaning}" for other, meaning in others.items())
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):  # infinity, not a number, a text of 5,000 digits
        raise between(name, *bounds, value, text) from None
    if not bounds[0] <= whole <= bounds[1] and whole not in others:
        raise between(name, *bounds, whole, text)
    return whole


def number(given: Mapping[str, Any], name: str, default: float, bounds: Bounds) -> float:
    """A finite number.

    :raises InvalidInput: it is outside of `bounds`.
    """
    value = given.get(name, default)
    try:
        real = float(value)
    except (TypeError, ValueError, OverflowError):  # a whole number beyond what a float can hold
        raise between(name, *bounds, value) from None
    if not (math.isfinite(real) and bounds[0] <= real <= bounds[1]):
        raise between(name, *bounds, value)
    return real


def choice(name: str, value: object, allowed: Iterable[str], *, other_names: Mapping[str, str] | None = None) -> str:
    """One of a few words, in any case and with any blanks around it.

    :param other_names: of some of the words.
    :raises InvalidInput: it is none of them.
    """
    words = tuple(allowed)
    plain = value.strip().lower() if isinstance(value, str) else ""
    plain = (other_names or {}).get(plain, plain)
    found = next((word for word in words if word.lower() == plain), None)
    if found is None:
        raise InvalidInput(f"{name} must be one of {', '.join(words)}; got {shown(value)}.", param=name)
    return found
