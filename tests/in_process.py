"""The models of a repository in this process, for one piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from darkroom.serving.in_process import InProcess

T = TypeVar("T")


def used(made: AbstractAsyncContextManager[InProcess], work: Callable[[InProcess], Awaitable[T]]) -> T:
    """Start the models, do the work, and stop them."""

    async def run() -> T:
        async with made as models:
            return await work(models)

    return asyncio.run(run())
