"""Turns errors into HTTP responses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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

log = logging.getLogger(__name__)

STATUS: dict[type[DarkroomError], int] = {
    errors.DarkroomError: 500,
    errors.InvalidInput: 422,
    errors.NoImages: 400,
    errors.NotAnImage: 415,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.LoraMissing: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.QueueFull: 429,
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
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def body(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The error body of the REST contract. `detail` repeats the message for clients of the older services."""
    return {"detail": message, "error": {"code": code, "message": message, "param": param}}


def describe(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error. An exception outside the error tree is logged and becomes a plain 500."""
    if isinstance(error, errors.NetworkError):
        log.error("%s", error.message)
        message = (
            "The model ran out of memory; a smaller image may fit."
            if isinstance(error, errors.OutOfMemory)
            else "The model failed on this request; see the server's log for the reason."
        )
        return STATUS[type(error)], body(message, error.code), {}
    if isinstance(error, DarkroomError):
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.QueueFull) else {}
        return STATUS[type(error)], body(error.message, error.code, error.param), headers
    log.error("unexpected error", exc_info=error)
    return 500, body("The server failed on this request; see its log for the reason.", "internal_error"), {}


def refusal(status: int, message: str, param: str | None = None) -> JSONResponse:
    """An error response with a given HTTP status."""
    return JSONResponse(body(message, CODES.get(status, "http_error"), param), status)


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
    """The response for an error; see `describe`."""
    status, content, headers = describe(error)
    return JSONResponse(content, status, headers)


def install(app: FastAPI) -> None:
    """Register the handlers."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        return answer(error)

    async def validation(_: Request, error: Exception) -> JSONResponse:
        message, param = first_problem(error) if isinstance(error, RequestValidationError) else (str(error), None)
        return JSONResponse(body(message, errors.InvalidInput.code, param), 422)

    async def http(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = str(error.detail) if isinstance(error, HTTPException) else ""
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        if status == 405:  # the framework lists the methods of one route only
            headers["Allow"] = ", ".join(allowed_methods(request))
        return JSONResponse(body(detail, CODES.get(status, "http_error")), status, headers)

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
