"""What pipelines and networks measure about their work, until their host publishes it.

A process of Triton serves one model, so the measurements of a process lie in one place, `RECORDER`. Nothing is
collected before a host that publishes has called `start`: in other processes the calls cost next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from darkroom import tracing
from darkroom.serving.networks import Tensors

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIDES = (256, 512, 768, 1024, 1536, 2048, 4096)
_MOST_WAITING = 20_000
"""Observations that are kept until a host takes them; further ones are dropped."""


@dataclass(frozen=True)
class Measure:
    """A counter, or with `buckets` a histogram.

    :param name: with the unit at its end, as Prometheus' users expect it.
    :param help: a description in one line.
    :param buckets: upper bounds.
    """

    name: str
    help: str
    buckets: tuple[float, ...] = ()


STAGE = Measure("darkroom_stage_seconds", "Seconds that the stages of a request took in the pipeline", _SECONDS)
STEP = Measure("darkroom_step_seconds", "Seconds from one denoising step of a request to its next one", _SECONDS)
TILE = Measure("darkroom_tile_seconds", "Seconds that a tile took, waiting for its turn included", _SECONDS)
TURN = Measure("darkroom_turn_wait_seconds", "Seconds that a call waited in the pipeline for its turn", _SECONDS)
CALL = Measure("darkroom_network_call_seconds", "Seconds from a pipeline's call of a network to its answer", _SECONDS)
COMPANY = Measure("darkroom_network_calls_total", "Calls of a network by what else was on its way to it")
ROWS = Measure("darkroom_network_batch_rows", "Rows that ran together in one execution", (1, 2, 4, 8, 16, 32, 64, 128))
RUN = Measure("darkroom_network_run_seconds", "Seconds that one execution took", _SECONDS)
UNBATCHED = Measure("darkroom_network_unbatched_total", "Calls that ran alone, by the reason")
LORA_LOADS = Measure("darkroom_network_lora_loads_total", "LoRA slots that were written")
LORA_EVICTIONS = Measure("darkroom_network_lora_evictions_total", "LoRA slots that were given to others")

MEASURES = (STAGE, STEP, TILE, TURN, CALL, COMPANY, ROWS, RUN, UNBATCHED, LORA_LOADS, LORA_EVICTIONS)

Series = tuple[Measure, tuple[tuple[str, str], ...]]
"""A measure with the labels of one of its series."""


class Recorder:
    """Keeps measurements until they are taken. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on = False
        self._at_first: Callable[[], None] | None = None
        self._counts: Counter[Series] = Counter()
        self._observed: dict[Series, list[float]] = {}
        self._waiting = 0

    @property
    def is_on(self) -> bool:
        """Whether it collects."""
        return self._on

    def start(self, at_first: Callable[[], None] | None = None) -> None:
        """Collect from now on.

        :param at_first: called once, with the first measurement.
        """
        self._at_first, self._on = at_first, True

    def stop(self) -> None:
        """Collect nothing more, and forget what was not taken."""
        self._on = False
        self.take()

    def count(self, measure: Measure, times: float = 1, **labels: str) -> None:
        """Add to a counter."""
        if self._on and times:
            with self._lock:
                self._counts[measure, tuple(labels.items())] += times  # type: ignore[assignment]  # floats work as well
            self._tell()

    def observe(self, measure: Measure, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        if self._on:
            with self._lock:
                if self._waiting < _MOST_WAITING:
                    self._waiting += 1
                    self._observed.setdefault((measure, tuple(labels.items())), []).append(value)
            self._tell()

    def _tell(self) -> None:
        if self._at_first is None:  # as with all measurements but the first
            return
        with self._lock:
            at_first, self._at_first = self._at_first, None
        if at_first is not None:
            at_first()

    @contextmanager
    def timed(self, measure: Measure, **labels: str) -> Iterator[None]:
        """Observe how many seconds the body takes, unless it raises."""
        began = time.monotonic()
        yield
        self.observe(measure, time.monotonic() - began, **labels)

    def take(self) -> tuple[dict[Series, float], dict[Series, list[float]]]:
        """Return what was added to counters, and the observed values, since the last time."""
        with self._lock:
            counts, observed = self._counts, self._observed
            self._counts, self._observed, self._waiting = Counter(), {}, 0
        return dict(counts), observed


RECORDER = Recorder()
"""The measurements of this process."""


def side_of(width: int | None, height: int | None) -> str:
    """A label for the size of an image: the side of the smallest square of a few that is as large."""
    if width is None or height is None:
        return "unknown"
    return next((str(side) for side in _SIDES if width * height <= side * side), "larger")


@contextmanager
def stage(name: str, width: int | None, height: int | None) -> Iterator[None]:
    """Time a stage of a request for images of that size, and make it a span."""
    span = tracing.span(name, width=width, height=height)
    with span, RECORDER.timed(STAGE, stage=name, size=side_of(width, height)):
        yield


class Company:
    """Counts for each call of a network what else a pipeline has on its way to it: nothing ("none"), calls of equal
    shapes, which can share an execution ("same_shapes"), or only others ("other_shapes")."""

    def __init__(self) -> None:
        self._calls: dict[str, Counter[object]] = {}

    @contextmanager
    def joined(self, network: str, inputs: Tensors) -> Iterator[None]:
        """Count a call that is on its way while the body runs."""
        if not RECORDER.is_on:
            yield
            return
        calls = self._calls.setdefault(network, Counter())
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in inputs.items()))
        found = "same_shapes" if calls[shapes] else "other_shapes" if calls.total() else "none"
        RECORDER.count(COMPANY, network=network, company=found)
        calls[shapes] += 1
        try:
            yield
        finally:
            calls[shapes] -= 1
            if not calls[shapes]:
                del calls[shapes]
