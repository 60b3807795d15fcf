"""Rows of tasks, written in the transaction that accepts or ends the task, so that none is without its row."""

from __future__ import annotations

import sqlalchemy as sa

from proxy.audit import chain
from proxy.audit.entries import Entries
from proxy.audit.notes import NOTES, Notes
from proxy.tasks.models import Task


class TaskRows:
    """For `Store`, which calls it within its transactions, in a thread with the context of the request or the run."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __call__(self, connection: sa.Connection, task: Task) -> None:
        """Write the row of a task that has just been accepted, or has just ended."""
        notes, operation = NOTES.get(), task.requested_operation or task.operation
        if task.ended:
            outcome = task.error["code"] if task.error else task.state
            made = notes if notes is not None and task.state == "completed" else Notes()
            entry = self._entries.task_end(task.id, operation, outcome, list(made.results), made.flagged)
        else:
            entry = self._entries.task(task.id, operation, task.fields, notes)
        chain.append(connection, [entry])
