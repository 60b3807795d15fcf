"""Is the service up? `GET /health` (merged contract A and B) and `GET /api/health` (contract D)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from darkroom import __version__
from proxy.devices import serving_device
from proxy.services import Services, Use

router = APIRouter(tags=["health"])

CONTRACT_VERSION = "1.0.0"


@router.get("/health", summary="State of the service")
async def health(services: Use) -> JSONResponse:
    """200 when every model has answered a small inference, 503 while they load, restart or drain."""
    gate, monitor = services.gate, services.monitor
    content: dict[str, Any] = {
        "status": _status(services),
        "version": CONTRACT_VERSION,
        "darkroom_version": __version__,
        "pipeline_ready": monitor.ready,
        "ready_since": monitor.ready_since,
        "queue_length": gate.queued,
        "active_tasks": gate.active,
        "total_tasks": gate.total,
        "models": monitor.models,
        "reason": monitor.reason,
        "canary_failures": monitor.canary_failures,
    }
    return _answer(content)


@router.get("/api/health", summary="State of the upscaler")
async def api_health(services: Use) -> JSONResponse:
    """Contract D: status, whether the models are loaded, and the device they run on."""
    monitor = services.monitor
    content = {
        "status": _status(services),
        "model_loaded": monitor.ready,
        "device": serving_device(monitor.providers.values()),
    }
    return _answer(content)


def _status(services: Services) -> str:
    if services.gate.draining:
        return "draining"
    return "healthy" if services.monitor.ready else "unhealthy"


def _answer(content: dict[str, Any]) -> JSONResponse:
    healthy = content["status"] == "healthy"
    return JSONResponse(content, 200 if healthy else 503, None if healthy else {"Retry-After": "5"})
