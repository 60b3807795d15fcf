"""What a row of the trail says, made of a request, of what its layers noted, or of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from darkroom.settings import Settings
from proxy.audit.notes import Notes
from proxy.audit.words import Words
from proxy.callers import CALLER, Caller
from proxy.error_shapes import shape_of
from proxy.http.peers import is_from_trusted
from proxy.observability import REQUEST_ID

REQUEST, RESULT, TASK, TASK_END = "request", "result", "task", "task_end"
"""The events: a request, the end of an answer that is a stream, a task that is accepted, and the end of a task."""
FIELDS = (
    *("event", "request_id", "key", "name", "address", "headers", "surface", "method", "path", "target"),
    *("operation", "model", "prompts", "rules", "policy_version", "task", "tasks", "inputs", "results", "flagged"),
    *("status", "outcome", "through", "hash", "rows"),
)
"""Every name that a row may have, besides `seq` and `at`."""
_LONGEST = 200
"""Characters of a value of the path, or of a forwarded header."""


class Entries:
    """Makes rows. It copies no header besides those that AUDIT_USER_HEADERS names, which may not be of credentials."""

    def __init__(self, settings: Settings, words: Words) -> None:
        self._headers = settings.audit_user_headers
        self._trusted = settings.forwarded_allow_ips
        self._words = words

    def request(self, scope: Scope, notes: Notes, caller: Caller, *, status: int, outcome: str) -> dict[str, Any]:
        """The row of a request."""
        route = scope.get("route")
        return _without_nothing(
            {
                "event": REQUEST,
                **self._who(scope, caller),
                "surface": shape_of(scope["path"]).__name__,
                "method": scope["method"],
                "path": getattr(route, "path_format", None),  # an unknown path may be anything, a secret even
                "target": {name: str(value)[:_LONGEST] for name, value in scope.get("path_params", {}).items()},
                **self._what(notes),
                "tasks": list(notes.tasks),
                "results": list(notes.results),
                "flagged": notes.flagged or None,
                "status": status,
                "outcome": outcome,
            }
        )

    def result(self, notes: Notes, caller: Caller, *, outcome: str) -> dict[str, Any]:
        """The row of the end of an answer that is a stream of events."""
        who = {"request_id": REQUEST_ID.get(), "key": caller.key, "name": caller.name}
        what = {"operation": notes.operation, "model": notes.model, "rules": list(notes.rules)}
        made = {"results": list(notes.results), "flagged": notes.flagged or None}
        return _without_nothing({"event": RESULT, **who, **what, **made, "outcome": outcome})

    def task(self, id: str, operation: str, fields: Mapping[str, Any], notes: Notes | None) -> dict[str, Any]:
        """The row of a task that is accepted.

        :param operation: the name that the client sent.
        :param fields: as the task keeps them.
        :param notes: of the request that began it.
        """
        about: dict[str, Any] = {}
        if notes is not None and notes.scope is not None:
            about = self.request(notes.scope, notes, CALLER.get(), status=202, outcome="accepted")
        own = {"event": TASK, "operation": operation, "prompts": self._words.prompts(fields), "task": id}
        own["outcome"] = "accepted"
        return _without_nothing({**about, **own, "tasks": [], "results": [], "status": None})

    def task_end(self, id: str, operation: str, outcome: str, results: list[str], flagged: int = 0) -> dict[str, Any]:
        """The row of the end of a task.

        :param results: SHA-256 of its files.
        :param flagged: how many of them are black, because the safety checker flagged what was made.
        """
        caller = CALLER.get()
        who = {"request_id": REQUEST_ID.get(), "key": caller.key, "name": caller.name}
        what = {"operation": operation, "task": id, "results": results, "flagged": flagged or None, "outcome": outcome}
        return _without_nothing({"event": TASK_END, **who, **what})

    def _who(self, scope: Scope, caller: Caller) -> dict[str, Any]:
        peer = scope.get("client")
        return {
            "request_id": REQUEST_ID.get(),
            "key": caller.key,
            "name": caller.name,
            "address": caller.address or (peer[0] if peer else ""),
            "headers": self._forwarded(scope),
        }

    def _forwarded(self, scope: Scope) -> dict[str, str]:
        """What a reverse proxy says of the user; what others say of themselves proves nothing."""
        if not self._headers or not is_from_trusted(scope, self._trusted):
            return {}
        sent = Headers(scope=scope)
        return {name: sent[name][:_LONGEST] for name in self._headers if name in sent}

    def _what(self, notes: Notes) -> dict[str, Any]:
        return {
            "operation": notes.operation,
            "model": notes.model,
            "prompts": self._words.prompts(notes.values),
            "rules": list(notes.rules),
            "policy_version": notes.policy_version,
            "inputs": list(notes.inputs),
        }


def _without_nothing(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value not in (None, "", [], {})}
