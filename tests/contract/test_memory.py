"""Memory of every process over many requests: it is as large at the end as it was after the first ones."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.pictures import encoded, photo
from tests.service import RunningService, link_models, running_service

CLIENTS = 4
NETWORK = "animevideov3"

Send = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that upscales with one network, so that it starts fast."""
    folder = tmp_path_factory.mktemp("memory")
    models = link_models(folder / "models", "upscale", f"realesrgan_{NETWORK}_x4")
    with running_service(folder, model_repository=models, canary_interval=3600) as running:
        yield running


def _own_memory(service: RunningService) -> dict[str, int]:
    """Bytes that each process has for itself (USS), by what it runs and its number."""
    return {f"{_runs(one.cmdline())} {one.pid}": one.memory_full_info().uss for one in service.tree()}


def _runs(command: list[str]) -> str:
    """The network's file that a process was started with, or else the end of its command."""
    networks = [word for word in command if word.endswith(".onnx")]
    return "/".join(Path(networks[0]).parts[-3:]) if networks else " ".join(command)[-60:]


def _run(service: RunningService, send: Send, count: int) -> None:
    """Send `count` requests with four clients at once."""

    async def client(http: httpx.AsyncClient, left: Iterator[int]) -> None:
        for _ in left:
            await send(http)

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=600) as http:
            left = iter(range(count))
            await asyncio.gather(*(client(http, left) for _ in range(CLIENTS)))

    asyncio.run(all_of_them())


def _upscale_of(side: int) -> Send:
    data = encoded(photo(width=side, height=side))

    async def send(http: httpx.AsyncClient) -> None:
        answer = await http.post("/api/upscale", files={"file": ("a.png", data)}, data={"model": NETWORK})
        assert answer.status_code == 200, answer.text

    return send


async def _generate(http: httpx.AsyncClient, *, images: int = 1, prompt: str = "a cat") -> None:
    fields = {"prompt": prompt, "steps": 2, "seed": 1, "num_images": images}
    answer = await http.post("/generate", json=fields)
    assert answer.status_code == 200, answer.text


def _left(send: Send, seconds: float) -> Send:
    """A client that goes away at a random time within its request."""

    async def leave(http: httpx.AsyncClient) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send(http), random.uniform(0, seconds))

    return leave


async def _task_with_previews(http: httpx.AsyncClient) -> None:
    fields = {"operation": "generate", "prompt": "a cat", "steps": 4, "seed": 1, "preview_every": 1}
    answer = await http.post("/tasks", json=fields)
    assert answer.status_code == 202, answer.text
    async with http.stream("GET", f"/tasks/{answer.json()['task_id']}/events") as events:
        last = [line async for line in events.aiter_lines() if line.startswith("event:")][-1]
    assert last == "event: done"


def _growth(service: RunningService, send: Send, *, first: int, then: int) -> dict[str, tuple[int, int]]:
    """Memory of each process after the `first` requests and after those that follow."""
    _run(service, send, first)
    before = _own_memory(service)
    _run(service, send, then)
    after = _own_memory(service)
    assert before.keys() == after.keys(), "a process was restarted"
    return {name: (before[name], after[name]) for name in before}


def test_memory_does_not_grow_with_concurrent_upscales(small: RunningService) -> None:
    """A server that kept each answer of 0.4 MB would grow by 16 MB in each of the two rounds. One that begins to use a
    further thread grows once."""
    rounds = [_growth(small, _upscale_of(128), first=first, then=40) for first in (30, 0)]
    grown = {name: [after - before for before, after in (one[name] for one in rounds)] for name in rounds[0]}
    assert all(min(sizes) < 6e6 for sizes in grown.values()), grown


@pytest.mark.heavy
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("kind", "send", "then"),
    [
        ("upscales", _upscale_of(128), 2000),
        ("generates", _generate, 2000),
        ("disconnects", _left(_generate, 1.5), 400),
        ("tasks", _task_with_previews, 500),
    ],
)
def test_memory_stays_within_3_percent(tmp_path: Path, kind: str, send: Send, then: int) -> None:
    with running_service(tmp_path, canary_interval=3600) as service:
        if kind != "upscales":
            # Every network takes memory once for its first full batch, and single images may meet in none for long.
            # A long prompt has as many rows for the text encoder as the short ones of four clients.
            _run(service, partial(_generate, images=4, prompt="a cat " * 200), 20)
        found = _growth(service, send, first=200, then=then)
    for name, (before, after) in found.items():
        sys.stdout.write(f"{kind}: {name}: {before / 1e6:.1f} -> {after / 1e6:.1f} MB, {after / before - 1:+.1%}\n")
    grown = {name: sizes for name, sizes in found.items() if sizes[1] > 1.03 * sizes[0]}
    assert not grown, grown
