"""A full queue, a task that takes too long, and a service that is not ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from darkroom_client import Client

from tests.pictures import encoded, photo
from tests.service import RunningService, link_models, running_service

NETWORK = "realesrgan_animevideov3_x4"
SLOW = {"model": "animevideov3", "tile": "64"}  # 81 tiles of a 576x576 picture: some seconds
QUICK = {"model": "animevideov3"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the models, so that a start takes less time."""
    return link_models(tmp_path_factory.mktemp("repository"), "upscale", NETWORK)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[RunningService]:
    """One task at a time, one in the queue, two seconds for each."""
    with running_service(
        tmp_path_factory.mktemp("narrow"),
        model_repository=repository,
        canary_interval=3600,
        max_concurrent_tasks=1,
        task_queue_size=1,
        task_timeout=2,
    ) as running:
        yield running


def post(service: RunningService, size: int, fields: dict[str, str], accept: str = "*/*") -> httpx.Response:
    files = {"file": encoded(photo().resize((size, size)))}
    url = f"{service.url}/api/upscale"
    return httpx.post(url, files=files, data=fields, headers={"accept": accept}, timeout=60)


def executions_while(service: RunningService, seconds: float) -> float:
    before = service.counter("nv_inference_exec_count", NETWORK)
    time.sleep(seconds)
    return service.counter("nv_inference_exec_count", NETWORK) - before


def wait_idle(service: RunningService) -> None:
    deadline = time.monotonic() + 30
    while httpx.get(f"{service.url}/health").json()["active_tasks"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_task_that_takes_too_long_is_504_and_stops(narrow: RunningService) -> None:
    answer = post(narrow, 1024, SLOW)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "task_timeout"
    assert "TASK_TIMEOUT = 2 s" in answer.json()["detail"]
    time.sleep(1)  # for the tiles at work
    assert executions_while(narrow, 2) == 0


def test_a_full_queue_is_429_and_says_when_to_come_back(narrow: RunningService) -> None:
    answers: list[httpx.Response] = []
    workers = [threading.Thread(target=lambda: answers.append(post(narrow, 1024, SLOW))) for _ in range(2)]
    for worker in workers:
        worker.start()
    while httpx.get(f"{narrow.url}/health").json()["queue_length"] == 0:
        time.sleep(0.01)
    refused = [post(narrow, 16, QUICK), post(narrow, 16, QUICK, accept="text/event-stream")]
    for worker in workers:
        worker.join()
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
    wait_idle(narrow)
    assert post(narrow, 16, QUICK).status_code == 200


def test_the_client_waits_and_gets_its_picture(narrow: RunningService) -> None:
    workers = [threading.Thread(target=post, args=(narrow, 1024, SLOW)) for _ in range(2)]
    for worker in workers:
        worker.start()
    while httpx.get(f"{narrow.url}/health").json()["queue_length"] == 0:
        time.sleep(0.01)
    with Client(narrow.url) as client:
        assert client.upscale(encoded(photo(0, 0, 16, 16)), model="animevideov3").image.startswith(b"\x89PNG")
    for worker in workers:
        worker.join()


def test_before_triton_is_up_everything_is_503(tmp_path: Path, repository: Path) -> None:
    with running_service(tmp_path, wait=False, model_repository=repository) as service:
        while not (triton := service.find("bin/tritonserver")):
            time.sleep(0.02)
        triton[0].suspend()  # else it may be up before the proxy is
        try:
            while (health := service.health()) is None:
                time.sleep(0.02)
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            answer = post(service, 16, QUICK)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        finally:
            triton[0].resume()
        service.wait_healthy(60)
        assert post(service, 16, QUICK).status_code == 200
