"""Clients take turns: who sends little does not wait for what another one has piled up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.pictures import encoded, photo
from tests.service import RunningService

GREEDY, NEWCOMER = "127.0.0.1", "127.0.0.2"
PLACES, REQUESTS = 8, 40
LONG = {"prompt": "a cat", "seed": 1, "width": 128, "height": 128, "steps": 150}
SHORT = {**LONG, "steps": 4}
X4PLUS = "realesrgan_x4plus"


def client(service: RunningService, address: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_connections=None))
    return httpx.AsyncClient(base_url=service.url, timeout=300, transport=transport)


async def wait_for_active(http: httpx.AsyncClient, least: int, most: int) -> None:
    deadline = time.monotonic() + 120
    while not least <= (await http.get("/health")).json()["active_tasks"] <= most:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@asynccontextmanager
async def direct_requests(http: httpx.AsyncClient, keys: Sequence[str | None]) -> AsyncIterator[list[Any]]:
    """A long one under each of the keys; gives the list of those that have ended."""
    ended: list[Any] = []
    headers = [{"authorization": f"Bearer {key}"} if key else {} for key in keys]
    jobs = [asyncio.ensure_future(http.post("/generate", json=LONG, headers=one)) for one in headers]
    for job in jobs:
        job.add_done_callback(ended.append)
    try:
        await wait_for_active(http, PLACES, PLACES)
        yield ended
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await wait_for_active(http, 0, 0)


@asynccontextmanager
async def tasks(http: httpx.AsyncClient, keys: Sequence[str]) -> AsyncIterator[list[str]]:
    """A long one under each of the keys; gives their ids."""
    ids = []
    for key in keys:
        answer = await http.post("/tasks", json={"operation": "generate", **LONG}, headers={"x-api-key": key})
        ids.append(answer.json()["task_id"])
    try:
        await wait_for_active(http, PLACES, PLACES)
        yield ids
    finally:
        for id in ids:
            await http.delete(f"/tasks/{id}")
        await wait_for_active(http, 0, 0)


async def use(http: httpx.AsyncClient) -> None:
    """Short requests, one after the other, and a short task."""
    for _ in range(3):
        assert (await http.post("/generate", json=SHORT)).status_code == 200
    await make_task(http)


async def make_task(http: httpx.AsyncClient) -> None:
    """A short one as a task, to its end."""
    id = (await http.post("/tasks", json={"operation": "generate", **SHORT})).json()["task_id"]
    while (state := (await http.get(f"/tasks/{id}")).json()["status"]) != "completed":
        assert state in ("queued", "processing")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("keys", [[None] * REQUESTS, [f"invented {n}" for n in range(REQUESTS)]], ids=["none", "many"])
def test_fairness_beside_direct_requests(service: RunningService, keys: list[str | None]) -> None:
    async def scenario() -> None:
        async with (
            client(service, GREEDY) as greedy,
            client(service, NEWCOMER) as newcomer,
            direct_requests(greedy, keys) as ended,
        ):
            job = asyncio.ensure_future(use(newcomer))
            while not job.done() and not ended:  # noqa: ASYNC110  # whichever comes first
                await asyncio.sleep(0.05)
            assert ended == [], "it waited until a long one was done"
            await job

    asyncio.run(scenario())


@pytest.mark.parametrize("keys", [["one"] * REQUESTS, [f"invented {n}" for n in range(REQUESTS)]], ids=["one", "many"])
def test_fairness_beside_tasks(service: RunningService, keys: list[str]) -> None:
    async def scenario() -> None:
        async with client(service, GREEDY) as greedy, client(service, NEWCOMER) as newcomer, tasks(greedy, keys) as ids:
            job = asyncio.ensure_future(use(newcomer))
            while not job.done():
                for id in ids[:PLACES]:
                    state = (await greedy.get(f"/tasks/{id}")).json()["status"]
                    assert state != "completed", "it waited until a long one was done"
                await asyncio.sleep(0.05)
            await job

    asyncio.run(scenario())


def test_fairness_of_upscaling_between_requests_of_one_client(service: RunningService) -> None:
    """The default model and tile: a small picture waits for the tile at work, not for those that are to come."""

    async def scenario() -> float:
        files = [{"file": encoded(photo(0, 0, side, side))} for side in (512, 64)]
        async with client(service, GREEDY) as http:
            large = asyncio.ensure_future(http.post("/api/upscale", files=files[0]))
            began = service.counter("nv_inference_exec_count", X4PLUS)
            while service.counter("nv_inference_exec_count", X4PLUS) == began:  # noqa: ASYNC110  # it is counted, not told
                await asyncio.sleep(0.05)
            before = service.counter("nv_inference_exec_count", X4PLUS)
            assert (await http.post("/api/upscale", files=files[1])).status_code == 200
            after = service.counter("nv_inference_exec_count", X4PLUS)
            assert not large.done()
            large.cancel()
            await asyncio.gather(large, return_exceptions=True)
            await wait_for_active(http, 0, 0)
            return after - before

    assert asyncio.run(scenario()) <= 4, "its own tile, the one at work, and what came while it was read and encoded"


def test_fairness_info_says_the_default_tile_of_each_network(service: RunningService) -> None:
    info = httpx.get(f"{service.url}/api/info").json()
    assert info["tile"] == 400
    tiles = {one["name"]: one["tile"] for one in info["networks"]}
    assert (tiles["x4plus"], tiles["animevideov3-x4"]) == (76, 260)
