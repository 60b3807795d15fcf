"""What every route needs, made once per app."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from darkroom.errors import Cancelled, TaskTimeout
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.readiness import Monitor
from proxy.settings import Settings

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Services:
    """Settings, the way to Triton, its state, and the door for work."""

    settings: Settings
    gateway: Gateway
    monitor: Monitor
    gate: Gate


def of(request: Request) -> Services:
    """The app's services, for `Depends`."""
    services: Services = request.app.state.services
    return services


Use = Annotated[Services, Depends(of)]


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; cancel it when it takes longer than `seconds`.

    :raises TaskTimeout: it did.
    """
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise TaskTimeout(f"The task took longer than TASK_TIMEOUT = {seconds:g} s and was stopped.") from None


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; cancel it when the client goes away.

    :raises Cancelled: it did.
    """
    job = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((job, watcher), return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise Cancelled("The client went away.")
    finally:
        for task in (job, watcher):
            task.cancel()
        await asyncio.gather(job, watcher, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
