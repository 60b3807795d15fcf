"""What the layers of a request say for its row in the audit trail."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.files import sha256_file
from proxy.metrics.current import note_failure, note_work


@dataclass(kw_only=True)
class Notes:
    """The facts about the current request. Each layer fills in what it knows.

    :ivar operation: such as generate, and `model` its model.
    :ivar values: the validated fields of the request, without images.
    :ivar rules: the ids of the policy's rules that acted, of its version `policy_version`.
    :ivar tasks: the ids of the tasks that the request began; `accepted` if all are new, and have rows of their own.
    :ivar inputs: SHA-256 of the images that came, and `results` of those that were made.
    :ivar flagged: how many of them are black, because the safety checker flagged what was made.
    :ivar error: the code of the error that the request is answered with.
    :ivar scope: the request itself, as ASGI has it; None for the run of a task.
    :ivar on_end: writes the row about the end of an answer that is a stream of events; None for other answers.
    """

    operation: str | None = None
    model: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    policy_version: str | None = None
    tasks: list[str] = field(default_factory=list)
    accepted: bool = False
    inputs: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    flagged: int = 0
    error: str | None = None
    scope: MutableMapping[str, Any] | None = field(default=None, repr=False)
    on_end: Callable[[], Awaitable[None]] | None = None


NOTES: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("audit_notes", default=None)
"""The notes of the current request; None where nothing is audited."""


async def note_request(
    operation: str, model: str, values: Mapping[str, Any], images: Iterable[bytes | memoryview] = ()
) -> None:
    """Note what a request asks for, for its row and for the metrics.

    :param values: the validated fields, without images.
    """
    note_work(operation, model)
    notes = NOTES.get()
    if notes is not None:
        notes.operation, notes.model, notes.values = operation, model, dict(values)
        await note_inputs(images)


async def note_inputs(images: Iterable[bytes | memoryview]) -> None:
    """Note images that came with the request."""
    notes = NOTES.get()
    if notes is not None:
        notes.inputs += await _digests(images)


async def note_results(images: Iterable[bytes | memoryview]) -> None:
    """Note images that were made, in the bytes that are sent."""
    notes = NOTES.get()
    if notes is not None:
        notes.results += await _digests(images)


def note_flagged() -> None:
    """Note that an image is black, because the safety checker flagged what was made."""
    notes = NOTES.get()
    if notes is not None:
        notes.flagged += 1


def note_error(code: str) -> None:
    """Note the error that the request is answered with, for its row and for the metrics."""
    note_failure(code)
    notes = NOTES.get()
    if notes is not None:
        notes.error = code


def note_same_work(before: Notes | None) -> None:
    """Note what an earlier request asked for, whose work answers this one, too. What it makes is noted for both.

    :param before: the notes of that request; None where nothing was audited.
    """
    notes = NOTES.get()
    if notes is not None and before is not None:
        for name in ("operation", "model", "values", "rules", "policy_version", "inputs", "results"):
            setattr(notes, name, getattr(before, name))


async def end_stream() -> None:
    """Write the row about the end of a stream of events, before its last event is sent. Does nothing for other answers.

    :raises NotReady: the row cannot be written, so the answer must not go on.
    """
    notes = NOTES.get()
    if notes is not None and notes.on_end is not None:
        await notes.on_end()


async def note_files(files: Iterable[bytes | memoryview | Path]) -> None:
    """Note the results, in place of the images that were made on the way to them."""
    notes = NOTES.get()
    if notes is not None:
        notes.results = await _digests(files)


async def _digests(files: Iterable[bytes | memoryview | Path]) -> list[str]:
    """The SHA-256 of each in hexadecimal; the hashing is done in a thread."""
    given = list(files)
    return await asyncio.to_thread(lambda: [_digest(one) for one in given]) if given else []


def _digest(data: bytes | memoryview | Path) -> str:
    return sha256_file(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
