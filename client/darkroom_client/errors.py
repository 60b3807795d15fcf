"""What the client raises: one small tree, by what the caller can do about it.

This module imports nothing but the standard library, so that the command line can use it without loading
the HTTP stack.
"""

from __future__ import annotations


class DarkroomError(Exception):
    """Base of the tree, and what is raised for an answer that fits no other class (a redirect, say).

    :ivar message: one sentence that a person can act on; also `str(error)`.
    :ivar status: the HTTP status, or None when no answer came.
    :ivar code: stable machine-readable name. The service's own ("invalid_input", "queue_full", ...), or one of
        this client's: "cannot_connect", "connection_lost", "no_answer", "bad_answer", "http_<status>".
    :ivar param: the request field at fault, if one is.
    :ivar request_id: the X-Request-ID under which the service's log knows the request, if it answered.
    :ivar retry_after: seconds after which the service asks to be tried again, if it said so.
    :ivar rule: the id of the rule that refused the request, for `Refused`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "error",
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        rule: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.rule = rule


class InvalidRequest(DarkroomError):
    """The request is wrong, and the same one will be refused again: 400, 404, 409, 413, 415, 422, other 4xx."""


class Unauthorized(InvalidRequest):
    """401: the service wants a key, and none was sent, or one that is not valid (`api_key`, DARKROOM_API_KEY)."""


class Forbidden(InvalidRequest):
    """403: it belongs to another key, or needs the key of an admin."""


class Refused(InvalidRequest):
    """400: a rule of the service's content policy refuses the request; `rule` is its id."""


class Busy(DarkroomError):
    """429: the queue is full. The client has already tried again as often as `retries` allows."""


class RateLimited(Busy):
    """429: the key has used up what it may do in some time, or at a time (code "rate_limited")."""


class Unavailable(DarkroomError):
    """503, or no service answers (code "cannot_connect"), or the connection broke (code "connection_lost")."""


class TimedOut(DarkroomError):
    """504: the work ran longer than the service allows; or no answer within `timeout` (code "no_answer")."""


class Cancelled(DarkroomError):
    """499: the request was cancelled."""


class ServerError(DarkroomError):
    """500 and other 5xx; also an answer that cannot be understood (code "bad_answer")."""


_BY_STATUS: dict[int, type[DarkroomError]] = {
    401: Unauthorized,
    403: Forbidden,
    429: Busy,
    499: Cancelled,
    503: Unavailable,
    504: TimedOut,
}

# Codes that say more than their status.
_PRECISE: dict[str, type[DarkroomError]] = {"rate_limited": RateLimited, "moderation_blocked": Refused}

# Items of a batch carry a code and no status. Codes that are not here are faults of the input.
_BY_CODE: dict[str, type[DarkroomError]] = {
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "queue_full": Busy,
    "not_ready": Unavailable,
    "storage_full": Unavailable,
    "task_timeout": TimedOut,
    "cancelled": Cancelled,
    "network_error": ServerError,
    "out_of_memory": ServerError,
    "internal_error": ServerError,
}


def error_class(status: int | None, code: str) -> type[DarkroomError]:
    """The class for an HTTP status, or for the service's error code where there is no status."""
    if code in _PRECISE:
        return _PRECISE[code]
    if status is None:
        return _BY_CODE.get(code, InvalidRequest)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return InvalidRequest
    return ServerError if status >= 500 else DarkroomError
