"""`/docs`: Swagger UI from this machine, without a content delivery network."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from darkroom.errors import NotFound
from proxy.web_files import ASKED_AGAIN, WebFile

_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css")
_START = "start.js"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Darkroom: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""


def install(app: FastAPI) -> None:
    """Add the page and its files. They are no part of the documented interface."""

    @app.get("/docs", include_in_schema=False)
    async def page(request: Request) -> Response:
        file = WebFile(_PAGE.encode(), "text/html; charset=utf-8")
        return file.answer(request, cache=ASKED_AGAIN, more={"Content-Security-Policy": _POLICY})

    @app.get("/docs/{name}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name == _START:
            return _start(app).answer(request, cache=ASKED_AGAIN)
        if name not in _ASSETS:
            raise NotFound(f"The documentation has no file {name[:80]!r}.", param="name")
        return _asset(name).answer(request, cache=ASKED_AGAIN)


def _start(app: FastAPI) -> WebFile:
    options = {"url": f"{app.openapi_url}".lstrip("/"), "dom_id": "#swagger-ui", "deepLinking": True}
    return WebFile(f"SwaggerUIBundle({json.dumps(options)})\n".encode(), "text/javascript; charset=utf-8")


@cache
def _asset(name: str) -> WebFile:
    """A file of Swagger UI, from the package that brings it. It is compressed at its first use."""
    return WebFile.read(Path(str(files("fastapi_offline") / "static" / name)))
