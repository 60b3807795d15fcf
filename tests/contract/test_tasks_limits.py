"""Tasks at their limits: a full queue, one place for all kinds of work, and a disk without room."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.contract.tasks import wait_ended
from tests.pictures import encoded
from tests.service import RunningService, link_models, running_service

MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "upscale", "realesrgan_animevideov3_x4")
QUICK: dict[str, Any] = {"operation": "generate", "prompt": "a cat", "steps": 4, "width": 64, "height": 64}
LONG = {**QUICK, "steps": 150, "width": 128, "height": 128}
PLACES, QUEUE = 2, 6


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Two tasks at a time, six in the queue."""
    repository = link_models(tmp_path_factory.mktemp("repository"), *MODELS)
    with running_service(
        tmp_path_factory.mktemp("narrow"),
        model_repository=repository,
        canary_interval=3600,
        max_concurrent_tasks=PLACES,
        task_queue_size=QUEUE,
    ) as running:
        yield running


@pytest.fixture
def http(narrow: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=narrow.url, timeout=300) as client:
        yield client
        cancel_all(client)  # what a failed test has left would fail those after it


def cancel_all(http: httpx.Client) -> None:
    for state in ("queued", "processing"):
        for task in http.get("/tasks", params={"limit": 500, "state": state}).json()["tasks"]:
            http.delete(f"/tasks/{task['task_id']}")


def refused_unread(http: httpx.Client) -> httpx.Response:
    """The answer to a large body while the queue is full: a refusal for whose time nothing more is read.

    A refusal counts for 0.25 s. On a busy machine the body comes later, is read, and turns out to be no image.
    """
    for _ in range(20):
        http.post("/tasks", json=QUICK)
        answer = http.post("/tasks", data={"operation": "upscale"}, files={"image": bytes(20 << 20)})
        if answer.status_code != 415:
            break
    return answer


def test_task_queue_is_full_and_keeps_its_order(http: httpx.Client) -> None:
    """Refused is what does not fit, all of a batch or none; what waits knows its place."""
    long = {**LONG, "width": 256, "height": 256}  # longer than all that follows; they are cancelled
    ids = [http.post("/tasks", json=long).json()["task_id"] for _ in range(PLACES + QUEUE)]
    refused = [
        http.post("/tasks", json=QUICK),
        refused_unread(http),
        http.post("/submit", json={"prompt": "a cat", "resolution": "512x512", "num_inference_steps": 1}),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(answer.headers["retry-after"]) <= 300
    for id in ids[-2:]:
        assert http.delete(f"/tasks/{id}").json()["status"] == "cancelled"
    small = {"prompt": "a cat", "resolution": "512x512", "num_inference_steps": 1}
    total = http.get("/health").json()["total_tasks"]
    assert http.post("/batch_submit", json={"requests": [small] * 4}).status_code == 429
    assert http.get("/health").json()["total_tasks"] == total
    deadline = time.monotonic() + 30  # a task has its place before its row says that it runs
    expected = {"active_tasks": PLACES, "queue_length": QUEUE - 2}
    while not expected.items() <= (health := http.get("/health").json()).items():
        assert time.monotonic() < deadline, health
        time.sleep(0.05)
    with httpx.Client(base_url=http.base_url, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as elsewhere:
        other = elsewhere.post("/tasks", json=QUICK).json()
    urgent = http.post("/tasks", json={**QUICK, "priority": "high"}).json()
    assert urgent["queue_position"] == 1
    position = http.get(f"/tasks/{other['task_id']}").json()["queue_position"]
    assert position in (None, 2), "in turn, not behind all of ours; None once it is a guest"
    waiting = [http.get(f"/tasks/{id}").json() for id in ids[PLACES : PLACES + QUEUE - 2]]
    assert [task["queue_position"] for task in waiting] == sorted(task["queue_position"] for task in waiting)
    estimates = [task["estimated_time"] for task in waiting]
    assert estimates == sorted(estimates)
    cancel_all(http)
    assert [wait_ended(http, one["task_id"])["status"] for one in (urgent, other)] == ["cancelled", "completed"]


def test_direct_requests_and_tasks_share_the_slots(narrow: RunningService, http: httpx.Client) -> None:
    tasks = [http.post("/tasks", json=LONG).json()["task_id"] for _ in range(PLACES)]

    async def direct() -> int:
        fields = {name: value for name, value in QUICK.items() if name != "operation"}
        async with httpx.AsyncClient(base_url=narrow.url, timeout=300) as client:
            jobs = [asyncio.ensure_future(client.post("/generate", json={**fields, "steps": 20})) for _ in range(4)]
            most = 0
            while not all(job.done() for job in jobs):
                most = max(most, (await client.get("/health")).json()["active_tasks"])
                await asyncio.sleep(0.01)
            assert [job.result().status_code for job in jobs] == [200] * 4
            return most

    assert asyncio.run(direct()) == PLACES
    assert [wait_ended(http, id)["status"] for id in tasks] == ["completed"] * PLACES


def noise(side: int) -> bytes:
    """A picture that does not compress."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return encoded(Image.fromarray(values))


def limit_files(service: RunningService, size: int) -> None:
    """From now on the proxy cannot write files beyond `size` bytes, which fails as a full disk does."""
    proxy = next(p for p in service.find("-m proxy") if p.pid != service.process.pid)
    psutil.Process(proxy.pid).rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_task_fails_without_disk_space_for_a_result(narrow: RunningService, http: httpx.Client) -> None:
    fields = {"operation": "upscale", "model": "animevideov3", "scale": 4, "format": "raw"}
    files, size = {"file": noise(400)}, 1600 * 1600 * 3
    limit_files(narrow, 6 << 20)  # the database's own files are smaller, the result is not
    try:
        failed = wait_ended(http, http.post("/tasks", data=fields, files=files).raise_for_status().json()["task_id"])
        assert (failed["status"], failed["results"], failed["error"]["code"]) == ("failed", [], "storage_full")
        assert "no room" in failed["error"]["message"]
        assert http.get("/health").json()["status"] == "healthy"
    finally:
        limit_files(narrow, resource.RLIM_INFINITY)
    done = wait_ended(http, http.post("/tasks", data=fields, files=files).json()["task_id"])
    assert done["status"] == "completed"
    assert len(http.get(done["result_urls"][0]).content) == done["results"][0]["bytes"] == size


def test_task_is_refused_without_disk_space(narrow: RunningService, http: httpx.Client) -> None:
    """Not even the database can write: new tasks are refused, and one that runs is done when there is room."""
    id = http.post("/tasks", json=LONG).json()["task_id"]
    while http.get(f"/tasks/{id}").json()["step"] == 0:
        time.sleep(0.05)
    limit_files(narrow, 1)
    try:
        refused = http.post("/tasks", json=QUICK)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        time.sleep(3)
        assert http.get("/api/health").status_code == 200
    finally:
        limit_files(narrow, resource.RLIM_INFINITY)
    assert wait_ended(http, id)["status"] == "completed"
    assert (
        wait_ended(http, http.post("/tasks", json=QUICK).raise_for_status().json()["task_id"])["status"] == "completed"
    )


# An idle connection is dropped by the server after 5 s; a request sent in that instant would die.
_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=2.0)


class Crowd:
    """Many clients at once. `refused` are the answers that were no acceptance, `seconds` what accepted tasks took."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=120, limits=_LIMITS)
        self.refused: list[httpx.Response] = []
        self.seconds: list[float] = []
        self.states: list[str] = []

    async def one(self) -> bool:
        """Submit a task, and if it is accepted wait for its end."""
        started = time.monotonic()
        answer = await self.http.post("/tasks", json=QUICK)
        if answer.status_code != 202:
            self.refused.append(answer)
            return False
        while True:
            task = (await self.http.get(f"/tasks/{answer.json()['task_id']}")).json()
            if task["status"] not in ("queued", "processing"):
                break
            await asyncio.sleep(0.1)
        self.seconds.append(time.monotonic() - started)
        self.states.append(task["status"])
        return True


async def full_queue(url: str, seconds: float) -> Crowd:
    """As many clients as there is room for, each with its next task when the one before is done."""
    crowd, end = Crowd(url), time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            if not await crowd.one():
                await asyncio.sleep(0.05)

    await asyncio.gather(*(client() for _ in range(PLACES + QUEUE)))
    await crowd.http.aclose()
    return crowd


async def overload(url: str, seconds: float, rate: float) -> Crowd:
    """So many tasks a second come, whatever is answered."""
    crowd, start, jobs = Crowd(url), time.monotonic(), []
    for number in range(int(seconds * rate)):
        await asyncio.sleep(start + number / rate - time.monotonic())
        jobs.append(asyncio.ensure_future(crowd.one()))
    late = time.monotonic() - start - seconds
    await asyncio.gather(*jobs)
    await crowd.http.aclose()
    assert late < 0.05 * seconds, "they could not even be sent so fast"
    return crowd


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


@pytest.mark.heavy
def test_ten_times_overload_for_two_minutes(narrow: RunningService) -> None:
    usual = asyncio.run(full_queue(narrow.url, 60))
    rate = len(usual.seconds) / 60
    crowd = asyncio.run(overload(narrow.url, 120, 10 * rate))
    assert len(crowd.refused) > len(crowd.seconds)
    assert {answer.status_code for answer in crowd.refused} <= {429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in crowd.refused)
    assert set(crowd.states) == {"completed"}, "nothing that was accepted is lost"
    assert p99(crowd.seconds) / p99(usual.seconds) <= 1.5
