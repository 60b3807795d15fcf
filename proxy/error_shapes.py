"""The shape of errors in each kind of REST contract: ours, OpenAI's, and that of web UIs. The path decides."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, in no particular shape.

    :param code: a name that does not change.
    :param param: the field that is at fault.
    :param rule: the id of the rule that refused the request, for a policy's refusals.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    rule: str | None = None

    @property
    def named_rule(self) -> dict[str, str]:
        """The field `rule` of every shape; none where no rule refused the request."""
        return {} if self.rule is None else {"rule": self.rule}


Shape = Callable[[Problem], tuple[int, dict[str, Any]]]
"""Returns the status and the body of the answer."""


def native(problem: Problem) -> tuple[int, dict[str, Any]]:
    """The shape of our own endpoints and of those of the older services, whose clients read `detail`."""
    error = {"code": problem.code, "message": problem.message, "param": problem.param}
    return problem.status, {"detail": problem.message, "error": {**error, **problem.named_rule}}


_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MODERATION, _NO_IMAGE = "moderation_blocked", "not_an_image"
_OPENAI_CODES = {"unauthorized": "invalid_api_key", "rate_limited": "rate_limit_exceeded"}


def openai(problem: Problem) -> tuple[int, dict[str, Any]]:
    """The shape of OpenAI's API, where bad input is 400, and so is a file that is no image."""
    status = 400 if problem.status == 422 or problem.code == _NO_IMAGE else problem.status
    usual = "server_error" if status >= 500 else "invalid_request_error"
    kind = "image_generation_user_error" if problem.code == _MODERATION else _OPENAI_TYPES.get(status, usual)
    code = _OPENAI_CODES.get(problem.code, problem.code)
    if (code, problem.param) == ("not_found", "model"):
        code = "model_not_found"
    error = {"message": problem.message, "type": kind, "param": problem.param, "code": code}
    return status, {"error": {**error, **problem.named_rule}}


def web_ui(problem: Problem) -> tuple[int, dict[str, Any]]:
    """The shape of AUTOMATIC1111's API."""
    content = {"error": problem.code, "detail": problem.message, "body": "", "errors": problem.message}
    return problem.status, {**content, "param": problem.param, **problem.named_rule}


_SHAPES: dict[str, Shape] = {"/v1": openai, "/sdapi": web_ui}

SHAPE: contextvars.ContextVar[Shape] = contextvars.ContextVar("shape", default=native)
"""The shape of errors in the answer to the current request."""


def surface() -> str:
    """The kind of contract that the current request belongs to: native, openai or web_ui."""
    return SHAPE.get().__name__


def shape_of(path: str) -> Shape:
    """Return the shape of errors below a path."""
    return next((shape for start, shape in _SHAPES.items() if path == start or path.startswith(start + "/")), native)
