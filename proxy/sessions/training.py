"""What the session endpoints say of a training, from its task."""

from __future__ import annotations

import math
from typing import Any

from proxy.tasks.models import Task


def training_of(task: Task | None) -> dict[str, Any]:
    """`status` and what goes with it, as the contract of sessions has it.

    :param task: the newest one that trains a session; None if there was none.
    """
    if task is None:
        return {"status": "none", "progress": 0}
    known = {"progress": math.floor(100 * task.share), "task_id": task.id}
    if not task.ended:
        steps = {"step": task.step, "total_steps": task.steps}
        return {"status": "in-progress", **known, **steps, "paused": task.state == "paused"}
    if task.state == "completed":
        return {"status": "completed", **known, "lora": task.results[0]["details"]["lora"]}
    message = (task.error or {}).get("message", "The training was cancelled.")
    return {"status": "error", **known, "message": message}
