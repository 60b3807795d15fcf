"""What the routes say of their answers and errors, for `/openapi.json`. Statuses come from `proxy.errors`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from darkroom import errors
from darkroom.errors import DarkroomError
from proxy.answers import Error
from proxy.errors import STATUS
from proxy.ignored import IGNORED
from proxy.streams import EVENT_STREAM

Raised = Sequence[type[DarkroomError]]

BODY: Raised = (errors.InvalidInput, errors.TooLarge)
"""What a route raises that reads fields."""
IMAGE: Raised = (*BODY, errors.NotAnImage)
"""What a route raises that reads an image."""
WORK: Raised = (errors.ModerationBlocked, errors.NotFound, errors.QueueFull, errors.NotReady, errors.TaskTimeout)
"""What a route raises that runs a model and waits for it."""
TASK: Raised = (errors.NotFound, errors.Gone, errors.NotReady)
"""What a route raises that looks at a task."""
SUBMIT: Raised = (*TASK, errors.ModerationBlocked, errors.Conflict, errors.QueueFull, errors.StorageFull)
"""What a route raises that begins a task."""

_HEADERS = {
    "X-Request-ID": ("The id of this request in the log; taken from the request where it has one.", "string"),
    "Retry-After": ("Seconds after which to try again.", "integer"),
    IGNORED: ("Names of fields that are not known, with commas between them.", "string"),
    "X-Seed": ("The seed of the image.", "string"),
    "X-Upscale-Model": ("The network that ran.", "string"),
    "X-Upscale-Scale": ("Output pixels per input pixel.", "string"),
    "X-Dropped-Metadata": ("Metadata that the answer has no room for: icc_profile.", "string"),
    "X-Failed-Files": ("How many files failed.", "string"),
    "Location": ("Where the task is.", "string"),
    "Idempotent-Replayed": ("true where the answer is that of an earlier request with the same key.", "string"),
    "WWW-Authenticate": ("How to send a key.", "string"),
    "Vary": ("What else of the request the answer depends on.", "string"),
}
_HEADERS_OF: dict[str, type[DarkroomError]] = {
    "Retry-After": errors.QueueFull,
    "WWW-Authenticate": errors.Unauthorized,
}
"""The headers of refusals, by the errors that have them."""
_EVERYWHERE: Raised = (DarkroomError,)
_JSON = "application/json"
_ERROR = {"$ref": f"#/components/schemas/{Error.__name__}"}


def answers(
    model: type[BaseModel] | None,
    *,
    raises: Raised = (),
    status: int = 200,
    media: Iterable[str] = (),
    headers: Iterable[str] = (),
    other: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """What a route's decorator says of its answers.

    :param model: of an answer in JSON; None where there is none.
    :param raises: errors of ours, beside those that every route can have.
    :param media: other media types of the answer.
    :param headers: of the answer, names of `_HEADERS`.
    :param other: statuses that no error of ours has, and when they come.
    """
    good: dict[str, Any] = {"headers": {name: header(name) for name in headers}}
    good["content"] = {name: {"schema": _schema_of(name)} for name in media}
    if model is not None:
        good["model"] = model
    responses: dict[int | str, dict[str, Any]] = {status: good, **refusals((*_EVERYWHERE, *raises))}
    responses |= {code: refusal(code, [text]) for code, text in (other or {}).items()}
    return {"responses": responses, "response_model": None}


def _schema_of(media: str) -> dict[str, Any]:
    if media == EVENT_STREAM:
        return {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
    return {"type": "string"} if media.startswith("text/") else {"type": "string", "format": "binary"}


def header(name: str) -> dict[str, Any]:
    """A header of `_HEADERS`."""
    description, kind = _HEADERS[name]
    return {"description": description, "schema": {"type": kind}}


def refusals(raised: Raised) -> dict[int | str, dict[str, Any]]:
    """The answers to errors, by their status."""
    by_status: dict[int, list[type[DarkroomError]]] = {}
    for kind in dict.fromkeys(raised):
        by_status.setdefault(STATUS[kind], []).append(kind)
    return {
        status: refusal(
            status,
            [f"`{kind.code}`: {_first_line(kind)}" for kind in kinds],
            [name for name, whose in _HEADERS_OF.items() if any(issubclass(kind, whose) for kind in kinds)],
        )
        for status, kinds in sorted(by_status.items())
    }


def refusal(status: int, texts: Iterable[str], headers: Iterable[str] = ()) -> dict[str, Any]:
    """An answer in the shape of all errors."""
    found: dict[str, Any] = {"description": " ".join(texts), "content": {_JSON: {"schema": _ERROR}}}
    names = list(headers)
    return found | ({"headers": {name: header(name) for name in names}} if names else {})


def _first_line(kind: type[DarkroomError]) -> str:
    if kind is DarkroomError:
        return "The server failed on this request; see its log for the reason."
    return (kind.__doc__ or "").strip().partition("\n")[0]


def healths(model: type[BaseModel], *, raises: Raised = ()) -> dict[str, Any]:
    """Return what `answers` does, for a route whose 503 has the same shape as its 200."""
    said = answers(model, raises=raises)
    said["responses"][STATUS[errors.NotReady]] = {
        "model": model,
        "description": "The models load, restart or drain.",
        "headers": {"Retry-After": header("Retry-After")},
    }
    return said
