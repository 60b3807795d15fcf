"""What the service says about itself, read by plain functions into plain data."""

from __future__ import annotations

import httpx

from .answers import checked, member, parsed
from .errors import ServerError
from .models import Health, Info, ModelInfo, Status
from .models_served import ServedModel


def read_health(response: httpx.Response) -> Health:
    """The answer of `GET /api/health`; it may come with 503 while models load, and is no error then.

    :raises DarkroomError: the answer is an error, and no statement about health.
    """
    try:
        body = parsed(response.content)
        device = body.get("device") if isinstance(body, dict) else None
        device = device if isinstance(device, dict) else {}
        return Health(
            status=member(body, "status", str),
            model_loaded=member(body, "model_loaded", bool),
            device_type=str(device.get("type", "")),
            device_name=str(device.get("name", "")),
        )
    except ServerError:
        checked(response)
        raise


def read_info(response: httpx.Response) -> Info:
    """The answer of a successful `GET /api/info`."""
    body = parsed(response.content)
    models = tuple(
        ModelInfo(
            name=member(model, "name", str),
            title=member(model, "title", str),
            scales=tuple(float(scale) for scale in member(model, "scales", list)),
        )
        for model in member(body, "models", list)
    )
    return Info(
        models=models,
        default_model=member(body, "default_model", str),
        limits=member(body, "limits", dict),
        raw=body,
    )


def read_status(response: httpx.Response) -> Status:
    """The answer of a successful `GET /status`."""
    body = parsed(response.content)
    gpus = member(body, "gpu_info", list)
    return Status(
        active_workers=member(body, "active_workers", int),
        task_queue_size=member(body, "task_queue_size", int),
        result_queue_size=member(body, "result_queue_size", int),
        pending_tasks=member(body, "pending_tasks", int),
        total_gpus=member(body, "total_gpus", int),
        gpu_info=tuple(gpu for gpu in gpus if isinstance(gpu, dict)),
        raw=body,
    )


def read_models(response: httpx.Response) -> list[ServedModel]:
    """The answer of a successful `GET /models`."""
    return [
        ServedModel(
            name=member(one, "name", str),
            title=member(one, "title", str),
            operations=tuple(member(one, "operations", list)),
            installed=member(one, "installed", bool),
            ready=member(one, "ready", bool),
            default_for=tuple(member(one, "default_for", list)),
            fields=one.get("fields") or {},
            controls=tuple(one.get("controls") or ()),
            raw=one,
        )
        for one in member(parsed(response.content), "models", list)
    ]
