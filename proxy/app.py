"""The FastAPI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from darkroom import __version__, tracing
from darkroom.registry import families
from darkroom.settings import Settings
from proxy import docs_page, errors, openapi
from proxy.audit.entries import Entries
from proxy.audit.middleware import Audited
from proxy.audit.words import Words
from proxy.fleet import Fleet
from proxy.gate import Gate
from proxy.http.bodies import MEGABYTE, Bodies, Intake, Kind
from proxy.http.guard import Guard
from proxy.http.methods import Methods
from proxy.http.requests import RequestIds
from proxy.http.traced import Traced, telemetry
from proxy.ignored import IGNORED, IgnoredFields
from proxy.keys.middleware import KeyGuard, Keys
from proxy.metrics.measures import Measures
from proxy.metrics.middleware import Measured
from proxy.openai.state import OpenaiState
from proxy.presence import EVERYTHING
from proxy.provenance import Provenance
from proxy.services import Services
from proxy.surfaces import (
    admin_keys,
    edit,
    edit_modes,
    generate,
    health,
    lora_sessions,
    lora_training,
    loras,
    metrics,
    models,
    openai_images,
    openai_models,
    png_info,
    policy,
    root,
    sdapi_extras,
    sdapi_images,
    sdapi_lists,
    status,
    submit,
    tasks,
    txt2img,
    upscale,
    upscale_networks,
)
from proxy.swapping.swapper import swapper_of
from proxy.tasks.tasks import Tasks
from proxy.tritons import Tritons

_OVERHEAD = MEGABYTE  # boundaries of a form and the other fields, beside the image
_BATCH_JSON = 8 * MEGABYTE
_EXPOSED_HEADERS = [
    "X-Request-ID",
    "X-Seed",
    "X-Upscale-Model",
    "X-Upscale-Scale",
    "X-Dropped-Metadata",
    "X-Failed-Files",
    IGNORED,
    "Retry-After",
    "Location",
    "Idempotent-Replayed",
]


def create_app(settings: Settings) -> FastAPI:
    """Build the app; it connects to Triton when it starts, and does not mind when Triton comes later."""

    provenance = Provenance.of(settings)
    measures = Measures() if settings.metrics else None
    audit = None if settings.audit == "off" else Entries(settings, Words.of(settings))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        swapper = swapper_of(settings, measures)
        tritons = Tritons(
            settings.tritons,
            {name: family.specs for name, family in families().items()},
            interval=settings.canary_interval,
            timeout=settings.canary_timeout,
            presence=swapper or EVERYTHING,
        )
        gate = Gate(capacity=settings.max_concurrent_tasks, queue_size=settings.task_queue_size)
        services = Services(
            settings=settings,
            gateway=tritons,
            monitor=Fleet(tritons),
            gate=gate,
            provenance=provenance,
            measures=measures,
            swapper=swapper,
        )
        if services.policy is not None:
            services.policy.load()
        app.state.tasks = Tasks(services, audit)
        app.state.trail = app.state.tasks.trail
        await app.state.tasks.start()
        app.state.keys = Keys(app.state.tasks.store, metrics_without_key=settings.metrics_without_key)
        await app.state.keys.start(settings.host)
        app.state.services = services
        app.state.openai = OpenaiState(settings)
        app.state.openai.start()
        await tritons.start()
        watching = [asyncio.create_task(tritons.run())]
        if swapper is not None:
            watching.append(asyncio.create_task(swapper.run(services.monitor)))
        yield
        await app.state.openai.stop()
        await app.state.keys.stop()
        await app.state.tasks.stop()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await tritons.close()

    app = FastAPI(
        title="Darkroom",
        version=__version__,
        description="Image generation, editing and upscaling on NVIDIA Triton Inference Server.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        telemetry=telemetry(),
    )
    errors.install(app)
    openapi.install(app, settings)
    docs_page.install(app)
    sessions = (lora_training, lora_sessions, loras)
    editing = (edit, edit_modes)
    images = (generate, *editing, png_info, upscale, upscale_networks)
    foreign = (openai_images, openai_models, sdapi_images, sdapi_extras, sdapi_lists)
    native = (root, health, status, models, *images, tasks, submit, txt2img, *sessions, admin_keys, policy, metrics)
    for route in (*native, *foreign):
        app.include_router(route.router)
    app.add_middleware(IgnoredFields)
    app.add_middleware(Bodies, intakes=_intakes(settings), stall_seconds=settings.request_timeout)
    app.add_middleware(Methods, service=app)
    app.add_middleware(KeyGuard, service=app)
    app.add_middleware(Guard, trusted_hosts=settings.trusted_hosts, origins=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    if audit is not None:
        app.add_middleware(Audited, entries=audit)
    if measures is not None:
        app.add_middleware(Measured, measures=measures)
    if tracing.provider() is not None:
        app.add_middleware(Traced)
    app.add_middleware(RequestIds)
    return app


def _intakes(settings: Settings) -> dict[str, Intake]:
    """What the endpoints take. Base64 takes a third more than the image in it, which has a limit of its own."""
    upload = int(settings.max_upload_mb * 4 / 3 * MEGABYTE) + _OVERHEAD
    batch = int(settings.max_batch_mb * MEGABYTE) + _OVERHEAD
    several = Intake({Kind.JSON: max(upload, batch), Kind.MULTIPART: max(upload, batch), Kind.URLENCODED: MEGABYTE})
    any_kind = Intake({Kind.JSON: upload, Kind.MULTIPART: upload, Kind.URLENCODED: MEGABYTE})
    return {
        "/tasks": any_kind,
        "/generate": any_kind,
        "/txt2img": any_kind,
        "/edit": several,
        "/edit/json": several,
        "/edit/multi": several,
        "/multi-image-editing": several,
        "/png-info": any_kind,
        "/post_session_image": Intake({Kind.JSON: upload}),
        "/loras": Intake({Kind.JSON: upload, Kind.MULTIPART: int(settings.lora_max_mb * MEGABYTE) + _OVERHEAD}),
        "/upload_lora": Intake({Kind.JSON: upload}),
        "/get_lora": Intake({Kind.JSON: MEGABYTE}),
        "/delete_session": Intake({Kind.JSON: MEGABYTE}),
        "/train_lora": Intake({Kind.JSON: MEGABYTE}),
        "/train_status": Intake({Kind.JSON: MEGABYTE}),
        "/admin/keys": Intake({Kind.JSON: MEGABYTE}),
        "/submit": Intake({Kind.JSON: MEGABYTE}),
        "/batch_submit": Intake({Kind.JSON: _BATCH_JSON}),
        "/sdapi/v1/txt2img": Intake({Kind.JSON: upload}),
        "/sdapi/v1/img2img": Intake({Kind.JSON: 2 * upload}),  # an image and its mask
        "/sdapi/v1/extra-single-image": Intake({Kind.JSON: upload}),
        "/sdapi/v1/extra-batch-images": Intake({Kind.JSON: max(upload, batch)}),
        "/sdapi/v1/png-info": Intake({Kind.JSON: upload}),
        "/sdapi/v1/options": Intake({Kind.JSON: MEGABYTE}),
        "/v1/images/generations": Intake({Kind.JSON: upload, Kind.MULTIPART: upload}),
        "/v1/images/edits": Intake({Kind.JSON: max(upload, batch), Kind.MULTIPART: max(upload, batch)}),
        "/v1/images/variations": Intake({Kind.JSON: upload, Kind.MULTIPART: upload}),
        "/api/upscale": any_kind,
        "/api/upscale-batch": Intake({Kind.MULTIPART: batch, Kind.URLENCODED: MEGABYTE}),
    }
