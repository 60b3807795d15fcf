"""The one error tree.

Everything that Darkroom itself raises on purpose is a `DarkroomError`. The tree is translated in exactly
two places: `to_wire`/`from_wire` below carry it through Triton, whose errors are a bare string, and
`proxy/errors.py` maps it to HTTP. A test walks the tree and fails when a class is not mapped.
"""

from __future__ import annotations

import json
from typing import ClassVar

_WIRE_PREFIX = "darkroom-error:"


class DarkroomError(Exception):
    """Base of the tree.

    `code` is the stable machine-readable name, `param` the request field that is at fault (or None), and
    `message` one sentence that a person can act on. No path, secret or stack trace ever stands in it.
    """

    code: ClassVar[str] = "internal_error"
    carried: ClassVar[tuple[str, ...]] = ()
    """Further arguments and attributes that go through Triton with it."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidInput(DarkroomError):
    """A field is of the wrong type, out of range, or not allowed in this combination."""

    code = "invalid_input"


class NoImages(InvalidInput):
    """A session has no images to train on."""

    code = "no_images"


class NotAnImage(InvalidInput):
    """The bytes are not an image that can be read: unknown format, damaged, cut short, or two files in one."""

    code = "not_an_image"


class TooLarge(InvalidInput):
    """The input is over a size limit: bytes, pixels or count."""

    code = "too_large"


class ModerationBlocked(DarkroomError):
    """A rule of the content policy refuses the request; `rule` is the rule's id."""

    code = "moderation_blocked"
    carried = ("rule",)

    def __init__(self, message: str, *, param: str | None = None, rule: str = "") -> None:
        super().__init__(message, param=param)
        self.rule = rule


class Unauthorized(DarkroomError):
    """The service wants a key, and the request has none or one that is not valid."""

    code = "unauthorized"


class Forbidden(DarkroomError):
    """The key does not allow this: it belongs to another key, or needs the role admin."""

    code = "forbidden"


class NotFound(DarkroomError):
    """An unknown id or name."""

    code = "not_found"


class LoraMissing(NotFound):
    """A LoRA is not where the networks run: its file has to be sent there first."""

    code = "lora_missing"
    carried = ("digest",)

    def __init__(self, message: str, *, param: str | None = None, digest: str = "") -> None:
        super().__init__(message, param=param)
        self.digest = digest


class Gone(DarkroomError):
    """It was there once; the time that it is kept for is over."""

    code = "gone"


class Conflict(DarkroomError):
    """It cannot be done to what is there in the state that it is in."""

    code = "conflict"


class QueueFull(DarkroomError):
    """No room in the queue; come back after `retry_after` seconds."""

    code = "queue_full"

    def __init__(self, message: str, *, param: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class RateLimited(QueueFull):
    """The key has used up what it may do in some time; come back after `retry_after` seconds."""

    code = "rate_limited"


class NotReady(QueueFull):
    """The service starts, restarts or drains; come back after `retry_after` seconds."""

    code = "not_ready"


class StorageFull(NotReady):
    """There is no room on the disk; come back after `retry_after` seconds."""

    code = "storage_full"


class TaskTimeout(DarkroomError):
    """The request ran longer than TASK_TIMEOUT."""

    code = "task_timeout"


class Cancelled(DarkroomError):
    """The client cancelled or went away."""

    code = "cancelled"


class NetworkError(DarkroomError):
    """A network model failed in a way that the input does not explain."""

    code = "network_error"


class OutOfMemory(NetworkError):
    """A network model could not get the memory for a batch; smaller tiles may fit."""

    code = "out_of_memory"


def walk(root: type[DarkroomError] = DarkroomError) -> list[type[DarkroomError]]:
    """Every class of the tree, parents before children."""
    return [root, *(leaf for child in root.__subclasses__() for leaf in walk(child))]


def to_wire(error: BaseException) -> str:
    """The string that Triton carries. Anything outside the tree becomes a plain internal error, its text withheld."""
    if not isinstance(error, DarkroomError):
        error = DarkroomError(f"unexpected {type(error).__name__} in the model; the log has the details")
    carried = {name: getattr(error, name) for name in error.carried}
    return _WIRE_PREFIX + json.dumps({"code": error.code, "message": error.message, "param": error.param, **carried})


def from_wire(text: str) -> DarkroomError | None:
    """The error that `to_wire` wrote, or None when the text is another one (Triton's own, say)."""
    start = text.find(_WIRE_PREFIX)
    if start < 0:
        return None
    try:
        fields, _ = json.JSONDecoder().raw_decode(text[start + len(_WIRE_PREFIX) :])
        kind = {cls.code: cls for cls in walk()}.get(fields["code"], DarkroomError)
        return kind(fields["message"], param=fields["param"], **{name: fields[name] for name in kind.carried})
    except (ValueError, KeyError, TypeError):
        return None
