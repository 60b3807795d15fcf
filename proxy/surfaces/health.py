"""Is the service up? `GET /health` (merged contract A and B) and `GET /api/health` (contract D)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from darkroom import __version__
from darkroom.devices import serving_device
from darkroom.errors import NotReady
from proxy.answers import ApiHealth, Health
from proxy.documented import healths
from proxy.readiness import Monitor
from proxy.services import Services, Use
from proxy.tasks.tasks import UseTasks

router = APIRouter(tags=["health"])

CONTRACT_VERSION = "1.0.0"
_RETRY_AFTER = 5
"""Seconds, when something else than Triton is the reason."""


@router.get("/health", summary="State of the service", **healths(Health))
async def health(services: Use, tasks: UseTasks) -> JSONResponse:
    """200 when every model has answered a small inference, 503 while they load, restart or drain. Tasks that wait are
    counted in `queue_length`, and in `total_tasks` all that are not forgotten, from before a restart too."""
    gate, monitor = services.gate, services.monitor
    status, counts, reason = _status(services), dict[str, int](), monitor.reason
    try:
        counts = await tasks.counts()
    except NotReady as error:
        status, reason = "unhealthy", error.message
    content: dict[str, Any] = {
        "status": status,
        "version": CONTRACT_VERSION,
        "darkroom_version": __version__,
        "pipeline_ready": monitor.ready,
        "ready_for": monitor.ready_for,
        "queue_length": gate.queued + counts.get("queued", 0),
        "active_tasks": gate.active,
        "total_tasks": gate.total - gate.durable + sum(counts.values()),
        "models": monitor.models,
        "reason": reason,
        "canary_failures": monitor.canary_failures,
    }
    return _answer(content, monitor)


@router.get("/api/health", summary="State of the upscaler", **healths(ApiHealth))
async def api_health(services: Use) -> JSONResponse:
    """Contract D: status, whether the models are loaded, and the device they run on."""
    monitor = services.monitor
    content = {
        "status": _status(services),
        "model_loaded": monitor.ready,
        "device": serving_device(monitor.providers.values()),
    }
    return _answer(content, monitor)


def _status(services: Services) -> str:
    if services.gate.draining:
        return "draining"
    return "healthy" if services.monitor.ready else "unhealthy"


def _answer(content: dict[str, Any], monitor: Monitor) -> JSONResponse:
    if content["status"] == "healthy":
        return JSONResponse(content)
    retry_after = _RETRY_AFTER if monitor.ready else monitor.retry_after
    return JSONResponse(content, 503, {"Retry-After": str(retry_after)})
