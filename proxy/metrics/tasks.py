"""What is measured of tasks, when this proxy runs them."""

from __future__ import annotations

import time
from typing import Any

from darkroom.registry import families
from darkroom.serving.networks import split_label
from proxy.metrics.current import CURRENT, Current
from proxy.metrics.measures import Measures
from proxy.operations import model_of
from proxy.tasks.models import Task


def run_begins(measures: Measures | None, task: Task) -> None:
    """Note that a run of a task has its slot; what the run says afterwards belongs to the task."""
    if measures is None:
        return
    age = max(0.0, time.time() - task.created_at)
    if task.attempts <= 1:
        measures.waited("task", age)
    operation, model = labels_of(task)
    CURRENT.set(Current(measures=measures, began=time.monotonic() - age, operation=operation, model=model))


def run_ends(measures: Measures | None, task: Task | None, state: str, error: dict[str, Any] | None) -> None:
    """Count a task that has ended; `task` is None if it never had a slot."""
    if measures is not None and task is not None:
        outcome = str(error["code"]) if error else state
        measures.task_ended(labels_of(task)[0], outcome, max(0.0, time.time() - task.created_at))


def labels_of(task: Task) -> tuple[str, str]:
    """The operation and the model of a task; it is stored with the name of its model in place of the operation, unless
    that is the usual one."""
    model = model_of(task.operation) or ""
    family = next((one for one in families().values() if one.pipeline.name == split_label(model)[0]), None)
    return (family.operation if family else task.operation), model
