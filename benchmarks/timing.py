"""Fair timing: variants measured in turns, medians, and ratios with their spread."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.results import Finding

Timed = Callable[[], float]
"""Does the work once and returns the seconds it took."""


def timed(work: Callable[[], object]) -> Timed:
    """`work` with a clock around it."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


def in_turns(
    variants: Mapping[str, Timed], *, rounds: int, on_round: Callable[[int], None] = lambda done: None
) -> dict[str, list[float]]:
    """Seconds of every variant in every round, after one round that does not count.

    Every second round runs backwards, so that no variant always follows the same other one, and a machine that
    slowly gets faster or slower favours none.

    :param on_round: told the rounds done, the one that does not count included.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        order = list(variants)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            took = variants[name]()
            if number > 0:
                seconds[name].append(took)
        on_round(number + 1)
    return seconds


def ratio(
    name: str, over: Sequence[float], under: Sequence[float], *, target: float | None = None, at_least: bool = False
) -> Finding:
    """The median of the rounds' ratios; entries of equal place come from the same round.

    Not the ratio of the medians: on a machine that is slow for minutes and fast for others, the two medians may
    come from different times.
    """
    single = sorted(a / b for a, b in zip(over, under, strict=True))
    return Finding(
        name=name,
        value=statistics.median(single),
        quartiles=(percentile(single, 25), percentile(single, 75)) if len(single) > 1 else None,
        rounds=len(single),
        target=target,
        at_least=at_least,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that `percent` % of them do not exceed (nearest rank).

    :param values: at least one, in any order.
    """
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def latencies(seconds: Sequence[float]) -> tuple[float, float, float]:
    """P50, P95 and P99 in milliseconds."""
    p50, p95, p99 = (percentile(seconds, percent) * 1000 for percent in (50, 95, 99))
    return p50, p95, p99
