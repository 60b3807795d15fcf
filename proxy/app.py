"""The FastAPI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from darkroom import __version__
from darkroom.registry import families
from proxy import errors, openapi
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.ignored import IGNORED, IgnoredFields
from proxy.middleware import BodyLimit, RequestIds
from proxy.readiness import Monitor
from proxy.routes import generate, health, png_info, root, status, submit, tasks, upscale
from proxy.services import Services
from proxy.settings import Settings
from proxy.tasks.tasks import Tasks

_FORM_OVERHEAD = 1 << 20  # multipart boundaries and the other fields, beside the file
_EXPOSED_HEADERS = [
    "X-Request-ID",
    "X-Seed",
    "X-Upscale-Model",
    "X-Upscale-Scale",
    "X-Failed-Files",
    IGNORED,
    "Retry-After",
    "Location",
    "Idempotent-Replayed",
]


def create_app(settings: Settings) -> FastAPI:
    """Build the app; it connects to Triton when it starts, and does not mind when Triton comes later."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway = Gateway(settings.triton_grpc)
        monitor = Monitor(
            gateway,
            families(),
            metrics_url=settings.triton_metrics,
            interval=settings.canary_interval,
            timeout=settings.canary_timeout,
        )
        gate = Gate(capacity=settings.max_concurrent_tasks, queue_size=settings.task_queue_size)
        services = Services(settings=settings, gateway=gateway, monitor=monitor, gate=gate)
        app.state.tasks = Tasks(services)
        await app.state.tasks.start()
        app.state.services = services
        watching = asyncio.create_task(monitor.run())
        yield
        await app.state.tasks.stop()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await gateway.close()

    app = FastAPI(
        title="Darkroom",
        version=__version__,
        description="Image generation and upscaling on NVIDIA Triton Inference Server.",
        lifespan=lifespan,
    )
    errors.install(app)
    openapi.install(app, settings)
    for route in (root, health, status, generate, png_info, upscale, tasks, submit):
        app.include_router(route.router)
    app.add_middleware(IgnoredFields)
    app.add_middleware(BodyLimit, limit_for=lambda path: _body_limit(settings, path))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    app.add_middleware(RequestIds)
    return app


def _body_limit(settings: Settings, path: str) -> int:
    """Of a body: base64 takes a third more than the file in it, which has its own limit."""
    megabytes = settings.max_batch_mb if path == "/api/upscale-batch" else settings.max_upload_mb * 4 / 3
    return int(megabytes * (1 << 20)) + _FORM_OVERHEAD
