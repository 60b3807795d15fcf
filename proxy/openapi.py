"""`/openapi.json`: what FastAPI says of the routes, with the bodies, errors and ranges of this installation."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from darkroom import errors
from proxy.answers import Error
from proxy.bodies import JSON, request_bodies
from proxy.documented import header, refusal, refusals
from proxy.errors import CODES
from proxy.ignored import IGNORED
from proxy.settings import Settings
from proxy.tasks.operations import submit_operation

_FORM_STATUS = 400
_FASTAPI_SCHEMAS = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI, settings: Settings) -> None:
    """Make the app give our document."""

    def document() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = made["components"]["schemas"]
    bodies = request_bodies(settings, submit_operation(app.state.services).name, schemas)
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            body = bodies.get((method, path))
            if body is not None:
                operation["requestBody"] = body
            _finish(operation, body)
    for name in _FASTAPI_SCHEMAS:
        schemas.pop(name, None)
    schemas[Error.__name__] = Error.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schemas[Error.__name__].pop("$defs", {}))
    return made


def _finish(operation: dict[str, Any], body: Mapping[str, Any] | None) -> None:
    """What every operation has: the errors of its parameters, and the headers that middleware sets."""
    responses: dict[str, Any] = operation["responses"]
    bad = responses.get("422", {}).get("content", {}).get(JSON, {}).get("schema", {}).get("$ref", "")
    if bad.endswith(_FASTAPI_SCHEMAS):
        del responses["422"]
    if operation.get("parameters") and any(one["in"] != "path" for one in operation["parameters"]):
        responses.setdefault("422", refusals((errors.InvalidInput,))[422])
    if body is not None and any(kind != JSON for kind in body["content"]):
        responses.setdefault(
            str(_FORM_STATUS), refusal(_FORM_STATUS, [f"`{CODES[_FORM_STATUS]}`: The form is broken."])
        )
    for status, response in responses.items():
        names = ["X-Request-ID", *([IGNORED] if body is not None else [])]
        response["headers"] = {name: header(name) for name in names} | response.get("headers", {})
        response.setdefault("description", HTTPStatus(int(status)).phrase)
