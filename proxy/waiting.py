"""Waiting with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def at_most(seconds: float, work: Awaitable[Result]) -> Result:
    """Await `work`, and cancel it when it takes longer than `seconds`.

    `asyncio.wait_for` cannot be used: before Python 3.12 it swallows a cancellation that arrives together with the end
    of the work, and the code that cancelled it waits for ever.

    :raises asyncio.TimeoutError: the work took longer.
    """
    job = asyncio.ensure_future(work)
    job.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # asyncio logs exceptions that are never read
    try:
        if not (await asyncio.wait({job}, timeout=seconds))[0]:
            raise asyncio.TimeoutError
        return job.result()
    finally:
        job.cancel()
