"""`GET /`: information about the service, and for a browser the studio, the web page of `web/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from darkroom import __version__
from darkroom.errors import NotFound
from proxy.answers import Root
from proxy.documented import answers
from proxy.http.accept import accept_of
from proxy.services import Services, Use
from proxy.surfaces.submit import submit_operation
from proxy.web_files import ASKED_AGAIN, KEPT_FOR_EVER, WebFile, files_of

router = APIRouter(tags=["health"])

BUILT = Path(__file__).parents[1] / "web"
"""Where `npm run build` in `web/` puts the studio."""
_PAGE = WebFile.read(BUILT / "index.html")
_ASSETS = files_of(BUILT / "assets")
_SERVICE_WORKER = WebFile.read(BUILT / "sw.js")
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_VARIES = {"Vary": "Accept"}
_ASSET_KINDS = ("text/javascript", "text/css", "image/svg+xml", "application/wasm")


@router.get(
    "/",
    summary="What this service is",
    response_class=JSONResponse,
    **answers(Root, media=("text/html",), headers=("Vary",)),
)
async def root(request: Request, services: Use) -> Response:
    """Links to the endpoints. A browser, which asks for HTML, gets the studio."""
    if accept_of(request).prefers("text/html", "application/json"):
        return _PAGE.answer(request, cache=ASKED_AGAIN, more={**_VARIES, "Content-Security-Policy": _POLICY})
    return JSONResponse(_described(services), headers=_VARIES)


@router.get(
    "/assets/{name}",
    summary="A file of the studio",
    response_class=Response,
    **answers(None, raises=(NotFound,), media=_ASSET_KINDS, headers=("Vary",)),
)
async def asset(name: str, request: Request) -> Response:
    """Its name changes with its content, so browsers keep it for ever."""
    if name not in _ASSETS:
        raise NotFound(f"The studio has no file {name[:80]!r}.", param="name")
    return _ASSETS[name].answer(request, cache=KEPT_FOR_EVER)


@router.get(
    "/sw.js",
    summary="The studio's service worker",
    response_class=Response,
    **answers(None, media=("text/javascript",), headers=("Vary",)),
)
async def service_worker(request: Request) -> Response:
    """It keeps the studio in browsers, so that its page opens while the service is away. Browsers ask for it again
    when the page is opened, and take a new one once the pages of the old one are closed."""
    return _SERVICE_WORKER.answer(request, cache=ASKED_AGAIN, more={"Content-Security-Policy": _POLICY})


def _described(services: Services) -> dict[str, Any]:
    return {
        "service": "Darkroom",
        "version": __version__,
        "description": "Image generation, editing and upscaling on NVIDIA Triton Inference Server.",
        "status": "running" if services.monitor.ready else "starting",
        "operation": submit_operation(services).name,
        "endpoints": {
            "submit": "/submit",
            "batch_submit": "/batch_submit",
            "status": "/status/{task_id}",
            "download": "/download/{task_id}?image_index=0",
            "tasks": "/tasks",
            "health": "/health",
            "docs": "/docs",
        },
    }
