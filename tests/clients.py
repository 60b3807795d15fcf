"""One way to call both Python clients, so that every test of the one is a test of the other."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from darkroom_client import AsyncClient, Client


class Call(Protocol):
    """Calls one method of a new client."""

    def __call__(
        self, url: str, method: str, *args: Any, retries: int = 0, timeout: float = 20, **kwargs: Any
    ) -> Any: ...


def _call_sync(url: str, method: str, *args: Any, retries: int = 0, timeout: float = 20, **kwargs: Any) -> Any:
    with Client(url, retries=retries, timeout=timeout) as client:
        return getattr(client, method)(*args, **kwargs)


def _call_async(url: str, method: str, *args: Any, retries: int = 0, timeout: float = 20, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, retries=retries, timeout=timeout) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


CALLS: dict[str, Call] = {"sync": _call_sync, "async": _call_async}
