"""The state of workers, queue and devices: contract A."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from darkroom import __version__
from darkroom.devices import gpu_info
from darkroom.errors import NotReady
from darkroom.family import Operation
from proxy.answers import Status
from proxy.documented import answers
from proxy.models import default_model
from proxy.operations.edit import reads_several
from proxy.services import Services, Use
from proxy.tasks.tasks import Tasks, UseTasks

router = APIRouter(tags=["health"])


@router.get("/status", summary="Workers, queue and devices", **answers(Status))
async def status(services: Use, tasks: UseTasks) -> dict[str, Any]:
    """`active_workers`: tasks that can run at once, while at least one family works (`families`). `task_queue_size`:
    waiting tasks, without the durable ones while their database is unavailable. `pending_tasks`: waiting and running
    tasks. `result_queue_size` is always 0, because results go to the client at once or to the disk.

    Memory of GPUs is in GiB. `memory_allocated` is that of this service (`memory_scope` "service") if the driver
    reports it, else that of all programs ("device"); `memory_reserved` is always that of all programs. `ranks` of a
    model that is divided over several devices: how many there should be, how many work, and why they were given up, if
    they were; the model then runs on one device, its `provider`. `tritons`: each inference server with its families and
    the calls that this proxy has there; a family is ready when it is so on one of them. `generate` and `edit`: what
    these operations can do here, null where no model is installed; `several_images` says whether one edit may have more
    than one."""
    gate, monitor, settings = services.gate, services.monitor, services.settings
    queued = await _queued(services, tasks)
    gpus = await asyncio.to_thread(gpu_info, settings.num_gpus_to_use)
    await monitor.read_metrics()
    return {
        "active_workers": gate.capacity if any(state.ready for state in monitor.states.values()) else 0,
        "task_queue_size": queued,
        "result_queue_size": 0,
        "pending_tasks": queued + gate.active,
        "total_gpus": len(gpus),
        "gpu_info": gpus,
        "active_tasks": gate.active,
        "finished_tasks": gate.total - gate.active,
        "max_concurrent_tasks": gate.capacity,
        "max_queue_size": gate.queue_size,
        "draining": gate.draining,
        "ready": monitor.ready,
        "reason": monitor.reason,
        "uptime_seconds": round(time.monotonic() - services.started, 1),
        "darkroom_version": __version__,
        "families": {name: state.described() for name, state in monitor.states.items()},
        "tritons": monitor.described(),
        "models": {name: _model(services, name, loaded) for name, loaded in monitor.models.items()},
        "generate": await asyncio.to_thread(_abilities, services, "generate"),
        "edit": await asyncio.to_thread(_edit, services),
    }


async def _queued(services: Services, tasks: Tasks) -> int:
    """Return the number of waiting tasks, as far as it is known."""
    durable = 0
    with contextlib.suppress(NotReady):
        durable = (await tasks.counts()).get("queued", 0)
    return services.gate.queued + durable


def _model(services: Services, name: str, loaded: bool) -> dict[str, Any]:
    ranks = services.monitor.ranks.get(name)
    provider = services.monitor.providers.get(name)
    return {"loaded": loaded, "provider": provider, "ranks": None if ranks is None else asdict(ranks)}


def _edit(services: Services) -> dict[str, Any] | None:
    found = _abilities(services, "edit")
    return found and found | {"several_images": reads_several(services, default_model(services, "edit"))}


def _abilities(services: Services, operation: Operation) -> dict[str, Any] | None:
    """What an operation can do here with the model of requests that name none; None where there is none."""
    model = default_model(services, operation)
    served = services.monitor.models
    if model.name not in served:
        return None
    checkpoint = model.checkpoint(services)
    known = checkpoint and {"name": checkpoint.name, "hash": checkpoint.digest, "side": checkpoint.side}
    return {
        "checkpoint": known,
        **model.features(services),
        "limits": model.family.limits(model.limits(services)),
    }
