"""The spans of tasks: each run is one, below the request that the task was accepted from."""

from __future__ import annotations

from darkroom import tracing
from proxy.metrics.tasks import labels_of
from proxy.tasks.models import Task


def run_span(task: Task) -> tracing.Span:
    """The span of an attempt at a task; that of the first one begins when the task was accepted.

    :param task: its row before the attempt.
    """
    operation, model = labels_of(task)
    return tracing.span(
        "task",
        parent=task.traceparent or tracing.ROOT,
        kind="consumer",
        began=_began(task),
        task_id=task.id,
        operation=operation,
        model=model,
        attempt=task.attempts + 1,
    )


def queue_span(task: Task) -> tracing.Span:
    """The span of waiting for a slot."""
    return tracing.span("queue", began=_began(task))


def _began(task: Task) -> float | None:
    return task.created_at if task.attempts == 0 else None
