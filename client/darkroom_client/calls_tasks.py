"""What the client sends about durable tasks."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any

from .calls import Call, as_json, load_image, require_ascii
from .errors import InvalidRequest

PATIENCE = 120.0  # seconds; a service that restarts with large models is back within them
RECONNECT_SECONDS = 1.0

_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def submit_call(operation: str, priority: str | None, key: str | None, fields: Mapping[str, Any]) -> Call:
    """`POST /tasks`.

    :raises InvalidRequest: a number that is none, text that is none, or a key that no header can carry.
    :raises OSError: the path of an image cannot be read.
    """
    if key is not None:
        require_ascii("idempotency_key", key)
    body = {"operation": operation, "priority": priority} | {name: _plain(value) for name, value in fields.items()}
    body = {name: value for name, value in body.items() if value is not None}
    headers = {"Content-Type": "application/json", "Idempotency-Key": key or str(uuid.uuid4())}
    arguments = {"content": as_json(body), "headers": headers}
    return Call(method="POST", path="/tasks", arguments=arguments, repeatable=True)


def _plain(value: Any) -> Any:
    """A value as JSON has it: images in base64, also in lists. Text stays text; the path of an image has to be a path
    object."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (bytes, bytearray, memoryview, os.PathLike, io.IOBase)):
        return base64.b64encode(load_image(value).data).decode("ascii")  # type: ignore[arg-type]
    return value


def task_path(task_id: str) -> str:
    """Where a task is.

    :raises InvalidRequest: that is no id.
    """
    if not _ID.fullmatch(task_id):
        raise InvalidRequest(f"task_id must be the id of a task, got {json.dumps(task_id)[:80]}", code="invalid_input")
    return f"/tasks/{task_id}"


def pause_call(task_id: str) -> Call:
    """`POST /tasks/{task_id}/pause`. A second time changes nothing."""
    return Call(method="POST", path=f"{task_path(task_id)}/pause", repeatable=True)


def resume_call(task_id: str) -> Call:
    """`POST /tasks/{task_id}/resume`. A second time changes nothing."""
    return Call(method="POST", path=f"{task_path(task_id)}/resume", repeatable=True)


def download_call(task_id: str, index: int) -> Call:
    """`GET /download/{task_id}`."""
    task_path(task_id)
    return Call(method="GET", path=f"/download/{task_id}", arguments={"params": {"image_index": index}})
