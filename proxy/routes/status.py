"""What the service is doing and on what: contract A."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from darkroom import __version__
from darkroom.pipelines.sd15.checkpoint import Checkpoint
from darkroom.pipelines.sd15.networks import CONTROL_UNETS, PIPELINE
from darkroom.schedulers import SCHEDULERS
from proxy.devices import gpu_info
from proxy.services import Services, Use

router = APIRouter(tags=["health"])


@router.get("/status", summary="Workers, queue and devices")
async def status(services: Use) -> dict[str, Any]:
    """`active_workers`: tasks that can run at once, while the models work; `task_queue_size`: tasks that wait;
    `pending_tasks`: tasks that wait or run. Results go to their clients at once, so that no result is ever in a
    queue. Memory of GPUs in GiB; `memory_allocated` is that of this service (`memory_scope` "service") where the
    driver tells it, else that of all programs ("device"), as `memory_reserved` always is."""
    gate, monitor, settings = services.gate, services.monitor, services.settings
    gpus = await asyncio.to_thread(gpu_info, settings.num_gpus_to_use)
    return {
        "active_workers": gate.capacity if monitor.ready else 0,
        "task_queue_size": gate.queued,
        "result_queue_size": 0,
        "pending_tasks": gate.queued + gate.active,
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
        "models": {
            name: {"loaded": loaded, "provider": monitor.providers.get(name)} for name, loaded in monitor.models.items()
        },
        "generate": await asyncio.to_thread(_generate, services) if PIPELINE.name in monitor.models else None,
    }


def _generate(services: Services) -> dict[str, Any]:
    """What text to image can do here."""
    limits, served = services.settings.generate_limits, services.monitor.models
    return {
        "checkpoint": _checkpoint(services.settings.model_repository / PIPELINE.name / "1"),
        "schedulers": list(SCHEDULERS),
        "controls": [control for control, spec in CONTROL_UNETS.items() if spec.name in served],
        "limits": {name: getattr(limits, name) for name in limits.__dataclass_fields__},
    }


def _checkpoint(folder: Path) -> dict[str, Any] | None:
    """What the export wrote down; None where the repository is on another machine."""
    try:
        checkpoint = Checkpoint.read(folder)
    except (OSError, ValueError, KeyError):
        return None
    return {"name": checkpoint.name, "hash": checkpoint.digest, "side": checkpoint.side}
