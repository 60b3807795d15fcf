"""`GET /`: information about the service, and for a browser a page that makes images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from darkroom import __version__
from proxy.answers import Root
from proxy.documented import answers
from proxy.http.accept import accept_of
from proxy.services import Services, Use
from proxy.surfaces.submit import submit_operation

router = APIRouter(tags=["health"])

_PAGE = Path(__file__).with_name("page.html").read_text()
_VARIES = {"Vary": "Accept"}


@router.get(
    "/",
    summary="What this service is",
    response_class=JSONResponse,
    **answers(Root, media=("text/html",), headers=("Vary",)),
)
async def root(request: Request, services: Use) -> Response:
    """Links to the endpoints. A browser, which asks for HTML, gets a page that makes images as durable tasks."""
    if accept_of(request).prefers("text/html", "application/json"):
        return HTMLResponse(_PAGE, headers=_VARIES)
    return JSONResponse(_described(services), headers=_VARIES)


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
