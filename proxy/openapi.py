"""`/openapi.json`: what FastAPI says of the routes, with the bodies, errors and ranges of this installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from darkroom import errors
from darkroom.family import Operation
from darkroom.settings import Settings
from proxy.answers import Error
from proxy.bodies import request_bodies
from proxy.body_fields import JSON
from proxy.documented import header, refusal, refusals
from proxy.error_shapes import Shape, openai, shape_of, web_ui
from proxy.errors import CODES
from proxy.ignored import IGNORED
from proxy.keys.access import is_open
from proxy.models import installed
from proxy.openai.answers import OpenaiError
from proxy.openai.bodies import bad_input_as_400
from proxy.sdapi.answers import WebUiError
from proxy.surfaces.submit import submit_operation
from proxy.surfaces.txt2img import preferred_model

_EVERY = {
    400: "The request is broken, or its Host is none of TRUSTED_HOSTS.",
    431: "The headers are too large.",
}
_CHANGING = {403: "The Origin is neither this service's own nor one of CORS_ORIGINS."}
_WITH_BODY = {
    408: "The body stood still for longer than REQUEST_TIMEOUT.",
    413: "The body is too large.",
    415: "Content-Type is none of those that are named here.",
}
"""What HTTP itself refuses, before any route is asked: status and reason, for every operation, for those that change
something, and for those with a body."""
_WITH_MODEL: tuple[Operation, ...] = ("generate", "edit")
"""The operations whose requests name a model."""
_ERRORS: dict[Shape, type[BaseModel]] = {web_ui: WebUiError, openai: OpenaiError}
"""Errors in other shapes than ours."""
_REFERENCE = "#/components/schemas/{model}"
_SCHEMES: dict[str, dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password; any user name."},
}
"""The ways to send a key, where the service has keys."""
_WITH_KEYS = (errors.Unauthorized, errors.Forbidden, errors.RateLimited)
"""What every operation may raise that needs a key, where the service has keys."""
_FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI, settings: Settings) -> None:
    """Make the app give our document."""

    made: dict[tuple[str, ...], dict[str, Any]] = {}

    def document() -> dict[str, Any]:
        services = app.state.services
        models = tuple(model.name for operation in _WITH_MODEL for model in installed(services, operation))
        if models not in made:  # it names the models, which come and go
            made.clear()
            made[models] = _document(app, settings, models)
        return made[models]

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, settings: Settings, models: Sequence[str]) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = made["components"]["schemas"]
    services = app.state.services
    submits, draws = submit_operation(services), preferred_model(services)
    bodies = request_bodies(settings, submits, draws, models, schemas)
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            body = bodies.get((method, path))
            if body is not None:
                operation["requestBody"] = body
            _refuse(operation["responses"], _EVERY)
            _ask_for_key(method, path, operation)
            _refuse(operation["responses"], _CHANGING if method != "get" else {})
            _refuse(operation["responses"], _WITH_BODY if body is not None else {})
            _finish(operation, body)
            if shape_of(path) is openai:
                bad_input_as_400(operation["responses"])
            _in_shape(path, operation["responses"])
    for name in _FASTAPI_SCHEMAS:
        schemas.pop(name, None)
    made["components"]["securitySchemes"] = _SCHEMES
    errors_of_all: list[type[BaseModel]] = [Error, *_ERRORS.values()]
    for error in errors_of_all:
        schemas[error.__name__] = error.model_json_schema(ref_template=_REFERENCE)
        schemas.update(schemas[error.__name__].pop("$defs", {}))
    return made


def _in_shape(path: str, responses: dict[str, Any]) -> None:
    """Give the refusals of a path the shape that its contract has."""
    error = _ERRORS.get(shape_of(path))
    ours = {"$ref": _REFERENCE.format(model=Error.__name__)}
    for response in responses.values() if error is not None else ():
        for content in response.get("content", {}).values():
            if content.get("schema") == ours and error is not None:
                content["schema"] = {"$ref": _REFERENCE.format(model=error.__name__)}


def _ask_for_key(method: str, path: str, operation: dict[str, Any]) -> None:
    """Say how an operation takes a key, and what it answers without one. Where the service has no keys, none is
    needed."""
    if is_open(method.upper(), path):
        return
    operation["security"] = [{}, *({name: []} for name in _SCHEMES)]
    for status, said in refusals(_WITH_KEYS).items():
        found = operation["responses"].setdefault(str(status), said)
        if said["description"] not in found["description"]:
            found["description"] += f" {said['description']}"


def _refuse(responses: dict[str, Any], reasons: Mapping[int, str]) -> None:
    """Add refusals; to those that a route has already, their reasons."""
    for status, reason in reasons.items():
        text = f"`{CODES[status]}`: {reason}"
        found = responses.setdefault(str(status), refusal(status, [text]))
        if text not in found["description"]:
            found["description"] += f" {text}"


def _finish(operation: dict[str, Any], body: Mapping[str, Any] | None) -> None:
    """What every operation has: the errors of its parameters, and the headers that middleware sets."""
    responses: dict[str, Any] = operation["responses"]
    bad = responses.get("422", {}).get("content", {}).get(JSON, {}).get("schema", {}).get("$ref", "")
    if bad.endswith(_FASTAPI_SCHEMAS):
        del responses["422"]
    if operation.get("parameters") and any(one["in"] != "path" for one in operation["parameters"]):
        responses.setdefault("422", refusals((errors.InvalidInput,))[422])
    for status, response in responses.items():
        names = ["X-Request-ID", *([IGNORED] if body is not None else [])]
        response["headers"] = {name: header(name) for name in names} | response.get("headers", {})
        response.setdefault("description", HTTPStatus(int(status)).phrase)
