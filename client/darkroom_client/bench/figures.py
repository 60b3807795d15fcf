"""The statistics of a benchmark, from single samples. Percentiles that a sample is too small for are None."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

NEEDED: Mapping[int, int] = MappingProxyType({50: 1, 95: 20, 99: 100})
"""Samples that a percentile needs. With fewer, the nearest rank of P95 and P99 is the largest sample and says nothing
about the share of slow requests."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request.

    :param started: seconds since the start of its level.
    :param seconds: from sending it to the last byte of the answer.
    :param images: images in the answer; 0 for a failure.
    :param first_preview: seconds until the first preview; None if none came.
    :param error: the kind of failure, such as "429 queue_full"; None for a success.
    """

    started: float
    seconds: float
    images: int = 0
    first_preview: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Figures of a number of seconds. Those that need more values are None; all are None without any."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    smallest: float | None
    largest: float | None


@dataclass(kw_only=True)
class Level:
    """All requests at one number of clients.

    :param concurrency: clients that each wait for their answer before they send the next request.
    :param samples: finished requests, in the order in which they ended.
    :param complete: whether the level ran to its end, and was not interrupted or given up.
    """

    concurrency: int
    samples: list[Sample] = field(default_factory=list)
    complete: bool = False

    @property
    def seconds(self) -> float:
        """Seconds from the start of the first request to the end of the last one."""
        if not self.samples:
            return 0.0
        return max(s.started + s.seconds for s in self.samples) - min(s.started for s in self.samples)

    @property
    def successes(self) -> list[Sample]:
        """The requests that were answered with images."""
        return [sample for sample in self.samples if sample.error is None]

    @property
    def images(self) -> int:
        """Images that came."""
        return sum(sample.images for sample in self.successes)

    @property
    def images_per_second(self) -> float | None:
        """Images divided by all seconds of the level; None before the first image.

        At the end of a level fewer than `concurrency` requests run. That counts, so short levels show too little.
        """
        return self.images / self.seconds if self.images else None

    @property
    def latency(self) -> Spread:
        """Seconds of successful requests."""
        return spread([sample.seconds for sample in self.successes])

    @property
    def first_preview(self) -> Spread:
        """Seconds to the first preview, of the successful requests that had one."""
        return spread([s.first_preview for s in self.successes if s.first_preview is not None])

    @property
    def errors(self) -> dict[str, int]:
        """Number of failures by kind, the most frequent first."""
        return dict(Counter(sample.error for sample in self.samples if sample.error is not None).most_common())


def spread(values: Sequence[float]) -> Spread:
    """Return the figures of seconds, in any order."""
    return Spread(
        count=len(values),
        mean=statistics.fmean(values) if values else None,
        p50=percentile(values, 50),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        smallest=min(values, default=None),
        largest=max(values, default=None),
    )


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile of NEEDED by nearest rank, the median as the mean of the middle two; None for too few values.

    :param percent: 50, 95 or 99.
    """
    if len(values) < NEEDED[percent]:
        return None
    if percent == 50:
        return statistics.median(values)
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]
