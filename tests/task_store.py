"""Drafts of tasks, and what a store of them estimates."""

from __future__ import annotations

import uuid
from typing import Any

from proxy.load import Used
from proxy.tasks.models import Draft, LaneLoad, QueueEstimate, Task, Work
from proxy.tasks.store import Store

WORK = Work(fields={"prompt": "a cat"}, files={}, steps=20, kind="64x64", units=20)


def draft(
    client: str = "a",
    *,
    key: str | None = None,
    digest: str = "d",
    priority: str = "normal",
    work: Work = WORK,
    source: str | None = None,
) -> Draft:
    return Draft(
        id=str(uuid.uuid4()),
        operation="generate",
        client=client,
        priority=priority,
        key=key,
        digest=digest,
        work=work,
        source=source,
    )


def add(store: Store, *drafts: Draft, slots: int = 2, queue_size: int = 1000) -> list[Task]:
    return [task for task, _ in store.add(drafts, slots=slots, queue_size=queue_size, fallback=0.5)]


def estimate_of(store: Store, slots: int, *, arriving: bool = False, **load: Any) -> QueueEstimate:
    """The queue estimate of the lane of images."""
    return store.queue_estimates({"images": LaneLoad(slots=slots, **load)}, arriving=arriving)["images"]


def measure(store: Store, *seconds: float, company: float = 0.0, work: Work = WORK) -> None:
    """Record tasks of this kind that took these seconds, one after the other."""
    for one in seconds:
        (task,) = add(store, draft(work=work))
        store.end(task.id, None, "completed")
        store.measured(task, Used(seconds=one, company=company))
