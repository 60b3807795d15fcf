"""The progress of a build: TensorRT reports phases with steps, and phases inside a step."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The running phases. A phase inside another one is a part of the step that the other one is at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Called when a phase with that number of steps begins."""
        with self._lock:
            self._running[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        """A phase has done its steps up to number `step`, counted from 0."""
        with self._lock:
            if phase := self._running.get(name):
                phase.done = min(step + 1, phase.steps)

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            phase = self._running.pop(name, None)
            if phase is not None and phase.parent is None:
                self._share = 1.0

    def share(self) -> float:
        """The share that is done, 0..1; it never falls."""
        with self._lock:
            roots = [name for name, phase in self._running.items() if phase.parent not in self._running]
            if roots:
                self._share = max(self._share, self._part(roots[0], depth=0))
            return self._share

    def _part(self, name: str, depth: int) -> float:
        phase = self._running[name]
        children = [child for child, entry in self._running.items() if entry.parent == name and child != name]
        inside = max((self._part(child, depth + 1) for child in children), default=0.0) if depth < 16 else 0.0
        return min(1.0, (phase.done + inside) / phase.steps)
