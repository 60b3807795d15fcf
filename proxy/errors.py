"""Turns errors into HTTP responses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from darkroom import errors
from darkroom.errors import DarkroomError
from darkroom.request.fields import shown
from proxy.audit.notes import note_error
from proxy.error_shapes import SHAPE, Problem, native

log = logging.getLogger(__name__)

STATUS: dict[type[DarkroomError], int] = {
    errors.DarkroomError: 500,
    errors.InvalidInput: 422,
    errors.NoImages: 400,
    errors.NotAnImage: 415,
    errors.TooLarge: 413,
    errors.ModerationBlocked: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.LoraMissing: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.QueueFull: 429,
    errors.RateLimited: 429,
    errors.NotReady: 503,
    errors.StorageFull: 503,
    errors.TaskTimeout: 504,
    errors.Cancelled: 499,
    errors.NetworkError: 500,
    errors.OutOfMemory: 500,
}
# Errors of the HTTP layer and of Starlette (unknown route, wrong method) have a status but no class of ours.
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    413: "too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    431: "headers_too_large",
    501: "not_implemented",
}
_PATIENCE_SECONDS = 60
"""No client waits longer than this by itself."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def problem_of(error: BaseException) -> Problem:
    """What is wrong, for an error. An exception outside the error tree is logged and becomes a plain 500."""
    if isinstance(error, errors.NetworkError):
        log.error("%s", error.message)
        message = (
            "The model ran out of memory; a smaller image may fit."
            if isinstance(error, errors.OutOfMemory)
            else "The model failed on this request; see the server's log for the reason."
        )
        return Problem(status=STATUS[type(error)], message=message, code=error.code)
    if isinstance(error, DarkroomError):
        rule = error.rule if isinstance(error, errors.ModerationBlocked) else None
        status = STATUS[type(error)]
        return Problem(status=status, message=error.message, code=error.code, param=error.param, rule=rule)
    log.error("unexpected error", exc_info=error)
    return Problem(
        status=500, message="The server failed on this request; see its log for the reason.", code="internal_error"
    )


def describe(error: BaseException) -> dict[str, Any]:
    """Return an error as part of an answer or of a stored task: `code`, `message` and `param`."""
    found: dict[str, Any] = native(problem_of(error))[1]["error"]
    return found


def refusal(status: int, message: str, param: str | None = None) -> JSONResponse:
    """An error response with a given HTTP status."""
    return response_of(Problem(status=status, message=message, code=CODES.get(status, "http_error"), param=param))


def response_of(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response in the shape of the contract that the request belongs to."""
    note_error(problem.code)
    status, content = SHAPE.get()(problem)
    return JSONResponse(content, status, headers)


def allowed_methods(request: Request) -> list[str]:
    """The methods that the routes of a request's path accept; empty for an unknown path."""
    scope, routes = dict(request.scope), request.app.routes
    found = [
        method
        for method in _METHODS
        if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in routes)
    ]
    if "GET" in found and "HEAD" not in found:
        found.insert(1, "HEAD")  # see `proxy.http.methods`
    return [*found, "OPTIONS"] if found else []


def answer(error: BaseException) -> JSONResponse:
    """The response for an error."""
    return response_of(problem_of(error), headers_of(error))


def headers_of(error: BaseException) -> dict[str, str]:
    """The headers of the response for an error."""
    if isinstance(error, errors.QueueFull):
        return {"Retry-After": str(error.retry_after), **_how_to_retry(error)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, errors.Unauthorized) else {}


def _how_to_retry(error: errors.QueueFull) -> dict[str, str]:
    """OpenAI's client would send a request again after seconds, whatever Retry-After says of hours."""
    long = isinstance(error, errors.RateLimited) and error.retry_after > _PATIENCE_SECONDS
    return {"X-Should-Retry": "false"} if long else {}


def install(app: FastAPI) -> None:
    """Register the handlers."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        return answer(error)

    async def validation(_: Request, error: Exception) -> JSONResponse:
        message, param = first_problem(error) if isinstance(error, RequestValidationError) else (str(error), None)
        return answer(errors.InvalidInput(message, param=param))

    async def http(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = str(error.detail) if isinstance(error, HTTPException) else ""
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if status == 405:  # the framework lists the methods of one route only
            headers["Allow"] = ", ".join(allowed_methods(request))
        return response_of(Problem(status=status, message=detail, code=CODES.get(status, "http_error")), headers)

    app.add_exception_handler(DarkroomError, ours)
    app.add_exception_handler(Exception, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def entry(place: Sequence[str | int]) -> str:
    """The beginning of a message that names the request of a list in which a body location lies, or ""."""
    found = (f"{name}[{at}]: " for name, at in pairwise(place) if isinstance(at, int) and name != "body")
    return next(found, "")


def first_problem(error: RequestValidationError) -> tuple[str, str | None]:
    """The message and field of the first validation error: what is expected and what was sent (shortened)."""
    first = error.errors()[0]
    param = next((str(part) for part in reversed(first["loc"]) if isinstance(part, str)), None)
    where = entry(first["loc"])
    if first["type"] == "missing":
        return f"{where}{param} is missing.", param
    return f"{where}{param}: {first['msg'].rstrip('.')}; got {shown(first.get('input'))}.", param
