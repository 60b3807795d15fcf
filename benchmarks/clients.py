"""HTTP clients: one connection that stays open, and many clients at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.processes import Server
from darkroom.pipelines.upscale.settings import TILE

Post = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
"""Sends one request."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response: seconds from the first byte sent to the last one received, and what came."""

    seconds: float
    response: httpx.Response


class Rest:
    """An HTTP connection to a server that stays open.

    :param address: of this machine, to connect from; None = any.
    :raises httpx.HTTPError: from every call, when the server fails.
    """

    def __init__(self, server: Server, *, address: str | None = None) -> None:
        transport = httpx.HTTPTransport(local_address=address)
        self._client = httpx.Client(base_url=server.url, timeout=None, trust_env=False, transport=transport)

    def __enter__(self) -> Rest:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def upscale(self, data: bytes, model: str, *, tile: int | None = TILE) -> bytes:
        """`POST /api/upscale`, from the file to the whole answer.

        :param tile: that of the loops and of ncnn, which are to do the same work; None = the service's own default.
        """
        fields = {"model": model} | ({} if tile is None else {"tile": str(tile)})
        answer = self._client.post("/api/upscale", files={"file": ("photo.png", data)}, data=fields)
        return answer.raise_for_status().content

    def generate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /generate` with a JSON body; the JSON answer."""
        answer: dict[str, Any] = self._client.post("/generate", json=body).raise_for_status().json()
        return answer


def closed_loop(
    server: Server,
    posts: Sequence[Post],
    *,
    clients: int,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """All answers, in the order they came; each client sends its next request when it has its answer.

    :raises httpx.HTTPError: a request failed.
    """
    waiting = iter(posts)
    answers: list[Answer] = []

    async def client(http: httpx.AsyncClient) -> None:
        for post in waiting:
            began = time.perf_counter()
            response = await post(http)
            seconds = time.perf_counter() - began
            answers.append(Answer(seconds=seconds, response=response.raise_for_status()))
            on_done(len(answers))

    async def all_clients() -> None:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=server.url, timeout=None, trust_env=False, limits=limits) as http:
            await asyncio.gather(*(client(http) for _ in range(clients)))

    asyncio.run(all_clients())
    return answers
