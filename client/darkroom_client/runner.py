"""Shared code of the long-running commands: several requests at a time, and a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable
from typing import Any, TypeVar

from .cli import PROBE_TIMEOUT
from .client import Client
from .errors import DarkroomError, InvalidRequest, Unavailable

# More patience than the library has by default: a long run should outlive a restart of the service.
RETRIES = 5

Item = TypeVar("Item")


def ask_once(url: str) -> None:
    """Fail at once, not after all retries of every job, when there is no service to begin with.

    :raises Unavailable: no service answers.
    """
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        try:
            client.health()
        except DarkroomError as error:
            if error.code == "cannot_connect":
                raise


async def run_all(jobs: Iterable[Item], at_a_time: int, work: Callable[[Item], Awaitable[bool]]) -> None:
    """Call `work` for every job, `at_a_time` at once. A call that returns False stops the run."""
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            if not await work(job):
                for _ in waiting:  # leaves nothing for the other workers either
                    pass

    await asyncio.gather(*(worker() for _ in range(at_a_time)))


def would_repeat(error: Exception, shared: Container[str]) -> bool:
    """Whether the remaining jobs would fail too: the service is unreachable, it does not support the request at all
    (404), or it refuses a field that all jobs share."""
    if isinstance(error, InvalidRequest):
        return error.status == 404 or (error.param is not None and field_of(error.param) in shared)
    return isinstance(error, Unavailable) and error.code != "connection_lost"


def field_of(param: str | None) -> str:
    """The field of a request that an error is about: `loras` for "loras[0].weight"."""
    return (param or "").partition("[")[0]


def run_until_stopped(work: Coroutine[Any, Any, None]) -> int:
    """Run `work` to its end. Ctrl-C and SIGTERM cancel it, which closes its connections.

    :returns: 0, or the exit code that tells what stopped it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    async def cancellable() -> None:
        task = asyncio.current_task()
        assert task is not None
        # Only the main thread has signals, and Windows knows no handlers for them.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        asyncio.run(cancellable())
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return 0
