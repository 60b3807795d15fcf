"""State of the service: `GET /health` (merged contract A and B) and `GET /api/health` (contract D)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from darkroom import __version__
from darkroom.devices import serving_device
from darkroom.errors import NotFound, NotReady
from proxy.answers import ApiHealth, Health, OneHealth
from proxy.documented import healths
from proxy.models import default_model
from proxy.services import Services, Use
from proxy.tasks.tasks import UseTasks

router = APIRouter(tags=["health"])

CONTRACT_VERSION = "1.0.0"
_RETRY_AFTER = 5
"""Retry-After in seconds if the reason is not Triton."""


@router.get("/health", summary="State of the service", **healths(Health))
async def health(services: Use, tasks: UseTasks) -> JSONResponse:
    """200 when every model has answered a small inference, 503 while some of them load, restart or drain. `families`
    says which of them work: they are independent, and `GET /health/{family}` answers for one. `queue_length` counts
    waiting tasks, `total_tasks` all stored tasks, also those from before a restart."""
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
        "families": {name: state.described() for name, state in monitor.states.items()},
    }
    return _answer(content, _RETRY_AFTER if monitor.ready else monitor.retry_after)


@router.get("/health/{family}", summary="State of one family of models", **healths(OneHealth, raises=(NotFound,)))
async def one_health(family: str, services: Use) -> JSONResponse:
    """200 when this pipeline and the networks that it needs have answered a small inference, 503 while they load,
    restart or drain; the names are those in `families` of `GET /health`. 404 for an unknown name."""
    monitor = services.monitor
    state = monitor.states.get(family)
    if state is None and monitor.models:
        raise NotFound(f"There is no family {family[:60]!r} here; there are {', '.join(monitor.states)}.")
    content = {"status": _status(services, family), "reason": monitor.reason} | (state.described() if state else {})
    return _answer(content, state.retry_after if state else monitor.retry_after)


@router.get("/api/health", summary="State of the upscaler", **healths(ApiHealth, raises=(NotFound,)))
async def api_health(services: Use) -> JSONResponse:
    """Contract D: status, whether the upscaler's models are loaded, and the device they run on."""
    monitor, model = services.monitor, default_model(services, "upscale")
    model.require(services)
    pipeline = model.name
    state = monitor.states.get(pipeline)
    networks = {spec.name for spec in state.group.networks} if state else set()
    content = {
        "status": _status(services, pipeline),
        "model_loaded": state is not None and state.ready,
        "device": serving_device([p for name, p in monitor.providers.items() if name in networks]),
    }
    return _answer(content, state.retry_after if state else monitor.retry_after)


def _status(services: Services, family: str | None = None) -> str:
    monitor = services.monitor
    if services.gate.draining:
        return "draining"
    return "healthy" if (monitor.ready if family is None else monitor.ready_of(family)) else "unhealthy"


def _answer(content: dict[str, Any], retry_after: int) -> JSONResponse:
    if content["status"] == "healthy":
        return JSONResponse(content)
    return JSONResponse(content, 503, {"Retry-After": str(retry_after)})
