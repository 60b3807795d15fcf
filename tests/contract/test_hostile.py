"""Hostile files and hostile clients: refused, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import io
import random
import time

import httpx
import pytest

from darkroom.pipelines.upscale.settings import Settings
from tests.hostile import hostile_files
from tests.pictures import encoded, photo
from tests.service import RunningService

FILES = hostile_files()


@pytest.mark.parametrize("name", FILES)
def test_refused_quickly_and_clearly(http: httpx.Client, name: str) -> None:
    for _ in range(10):  # the best of ten: another process may have the processor for a while
        started = time.monotonic()
        file = (name, io.BytesIO(FILES[name]))  # of bytes httpx makes one piece, and copies its rest again and again
        answer = http.post("/api/upscale", files={"file": file}, data={"model": "animevideov3-x2"})
        seconds = time.monotonic() - started
        if seconds < 1:
            break
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["detail"].endswith(".")
    assert "Traceback" not in answer.text
    assert seconds < 1


def test_no_growth_and_still_working(http: httpx.Client, service: RunningService) -> None:
    def all_of_them() -> None:
        for name, data in FILES.items():
            http.post("/api/upscale", files={"file": (name, data)}, data={"model": "animevideov3-x2"})

    all_of_them()
    grown = []
    for _ in range(4):  # a leak grows in every round; what is loaded late, as for a canary, in one
        before = sum(service.memory(files=False).values())
        for _ in range(3):
            all_of_them()
        grown.append(sum(service.memory(files=False).values()) - before)
        if grown[-1] < 32 << 20:
            break
    assert grown[-1] < 32 << 20, grown
    good = http.post("/api/upscale", files={"file": encoded(photo(0, 0, 32, 32))}, data={"model": "animevideov3-x2"})
    assert good.status_code == 200


async def _leave(client: httpx.AsyncClient, data: bytes, seconds: float, *, events: bool) -> None:
    headers = {"accept": "text/event-stream"} if events else {}
    work = client.post("/api/upscale", files={"file": data}, data={"model": "animevideov3"}, headers=headers)
    try:
        await asyncio.wait_for(work, seconds)
    except (asyncio.TimeoutError, httpx.TransportError):
        return


def test_hundred_clients_that_leave(service: RunningService) -> None:
    """Each leaves at a random moment, from before its upload is through to far into its tiles."""
    rng = random.Random(0)
    data = encoded(photo())
    network = "realesrgan_animevideov3_x4"

    async def crowd() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as client:
            await asyncio.gather(*(_leave(client, data, rng.uniform(0.005, 4), events=i % 2 == 0) for i in range(100)))

    asyncio.run(crowd())
    tiles = service.counter("nv_inference_count", network)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        health = httpx.get(f"{service.url}/health", timeout=60).json()
        waiting = service.counter("nv_inference_pending_request_count", network)
        if health["active_tasks"] == health["queue_length"] == waiting == 0:
            break
        time.sleep(0.2)
    assert (health["active_tasks"], health["queue_length"], waiting) == (0, 0, 0)
    small = {"files": {"file": encoded(photo(0, 0, 40, 40))}, "data": {"model": "animevideov3"}}
    answer = httpx.post(f"{service.url}/api/upscale", timeout=60, **small)  # behind the batch that was at work
    assert answer.status_code == 200
    # What was at the network when the last one left may end, and what took a place there before that was heard of.
    after = service.counter("nv_inference_count", network)
    assert after - 1 - tiles <= 2 * Settings().tiles_at_network
    time.sleep(4)
    assert service.counter("nv_inference_count", network) == after, "tiles are still being computed"
