"""What the layers of a request say for its row in the audit trail."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Notes:
    """The facts about the current request. Each layer fills in what it knows.

    :ivar operation: such as generate, and `model` its model.
    :ivar values: the validated fields of the request, without images.
    :ivar rules: the ids of the policy's rules that acted, of its version `policy_version`.
    :ivar tasks: the ids of the tasks that the request began.
    :ivar inputs: SHA-256 of the images that came, and `results` of those that were made.
    """

    operation: str | None = None
    model: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    policy_version: str | None = None
    tasks: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


NOTES: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("audit_notes", default=None)
"""The notes of the current request; None where nothing is audited."""
