"""What the layers say of the current request or task, for the metrics and for its span. Where nothing is measured or
traced, the functions do nothing."""

from __future__ import annotations

import contextvars
import time
from dataclasses import dataclass, field

from darkroom import tracing
from proxy.metrics.measures import Measures


@dataclass(kw_only=True)
class Current:
    """A request, or the run of a task.

    :ivar began: by `time.monotonic`; of a task the moment when it was accepted.
    :ivar operation, model: what it asks for; "" while that is not known.
    :ivar error: the code of the error that it is answered with.
    """

    measures: Measures
    began: float = field(default_factory=time.monotonic)
    operation: str = ""
    model: str = ""
    error: str | None = None
    previewed: bool = False

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began


CURRENT: contextvars.ContextVar[Current | None] = contextvars.ContextVar("metrics_current", default=None)
"""The request or task of this context; None where nothing is measured."""


def note_work(operation: str, model: str) -> None:
    """Say what the current request asks for."""
    tracing.note(operation=operation, model=model)
    current = CURRENT.get()
    if current is not None:
        current.operation, current.model = operation, model


def note_task(operation: str) -> None:
    """Say that the current request begins a task, of an operation that may have no model."""
    current = CURRENT.get()
    if current is not None and not current.operation:
        current.operation = operation


def note_failure(code: str) -> None:
    """Say which error the current request is answered with."""
    tracing.note(error=code)
    current = CURRENT.get()
    if current is not None:
        current.error = code


def note_preview() -> None:
    """Say that a preview has come; the first one counts."""
    tracing.event("preview")
    current = CURRENT.get()
    if current is not None and not current.previewed:
        current.previewed = True
        current.measures.previewed(operation=current.operation, model=current.model, seconds=current.age)
