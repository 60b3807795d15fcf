"""Looks at the service when its metrics are read: queues, tasks, readiness, restarts, devices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import psutil

from darkroom.devices import gpu_memory
from darkroom.errors import NotReady
from darkroom.restarts import read_restarts, restarts_file
from darkroom.settings import Settings
from proxy.metrics.collector import State
from proxy.services import Services
from proxy.tasks.tasks import Tasks


async def state_of(services: Services, tasks: Tasks, *, triton: bool) -> State:
    """Look at everything.

    :param triton: whether Triton's metrics could be read.
    """
    counts: Mapping[str, int] | None = None
    with contextlib.suppress(NotReady):
        counts = await tasks.counts()
    policy = services.policy
    return State(
        gates=tasks.gates,
        direct=services.gate.queued,
        draining=services.gate.draining,
        tasks=counts,
        ready={name: state.takes_requests for name, state in services.monitor.states.items()},
        restarts=await asyncio.to_thread(read_restarts, restarts_file(services.settings)),
        memory=await asyncio.to_thread(_memory, services.settings),
        triton=triton,
        loaded={} if services.swapper is None else services.swapper.loaded_bytes(),
        policy_problems=len(policy.error.problems) if policy is not None and policy.error is not None else 0,
    )


def _memory(settings: Settings) -> dict[str, tuple[int, int]]:
    system = psutil.virtual_memory()
    return {"cpu": (system.total - system.available, system.total), **gpu_memory(settings.num_gpus_to_use)}
