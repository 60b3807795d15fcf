"""A full queue, a task that takes too long, a model that is not there, and a service that is not ready."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from darkroom_client import Client

from tests.contract.generating import QUICK as IMAGE
from tests.contract.generating import named
from tests.contract.states import state
from tests.pictures import encoded, photo
from tests.service import RunningService, before_triton_is_up, link_models, running_service

NETWORK = "realesrgan_animevideov3_x4"
MODELS = ("upscale", NETWORK)
TEXT_TO_IMAGE = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
SLOW = {"model": "animevideov3", "tile": "64"}
QUICK = {"model": "animevideov3"}
SMALL = encoded(photo(0, 0, 16, 16))


@cache
def slow_picture() -> bytes:
    """1,024 tiles, which take far more than TASK_TIMEOUT."""
    return encoded(photo().resize((2048, 2048)))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Two of the models; one task at a time, one in the queue, four seconds for each."""
    folder = tmp_path_factory.mktemp("narrow")
    with running_service(
        folder,
        model_repository=link_models(folder / "repository", *MODELS),
        canary_interval=3600,
        max_concurrent_tasks=1,
        task_queue_size=1,
        task_timeout=4,
    ) as running:
        yield running


def post(service: RunningService, fields: dict[str, str], accept: str = "*/*") -> httpx.Response:
    files = {"file": slow_picture() if fields is SLOW else SMALL}
    url = f"{service.url}/api/upscale"
    return httpx.post(url, files=files, data=fields, headers={"accept": accept}, timeout=60)


@contextlib.contextmanager
def full(service: RunningService) -> Iterator[None]:
    """One task is at work and one waits."""
    slow_picture()  # makes it
    workers = [threading.Thread(target=post, args=(service, SLOW)) for _ in range(2)]
    with httpx.Client(base_url=service.url, timeout=60) as http:
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 30
        while http.get("/health").json()["queue_length"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    yield
    for worker in workers:
        worker.join()


def executions_while(service: RunningService, seconds: float) -> float:
    before = service.counter("nv_inference_exec_count", NETWORK)
    time.sleep(seconds)
    return service.counter("nv_inference_exec_count", NETWORK) - before


def wait_idle(service: RunningService) -> None:
    deadline = time.monotonic() + 30
    while httpx.get(f"{service.url}/health", timeout=60).json()["active_tasks"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_upscale_that_takes_too_long_is_504_and_stops(narrow: RunningService) -> None:
    answer = post(narrow, SLOW)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "task_timeout"
    assert "TASK_TIMEOUT = 4 s" in answer.json()["detail"]
    assert post(narrow, QUICK).status_code == 200  # behind the tiles that were at work
    assert executions_while(narrow, 2) == 0


def test_upscale_at_a_full_queue_is_429_with_retry_after(narrow: RunningService) -> None:
    with full(narrow):
        refused = [post(narrow, QUICK), post(narrow, QUICK, accept="text/event-stream")]
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
    wait_idle(narrow)
    assert post(narrow, QUICK).status_code == 200


def test_client_waits_at_a_full_queue_and_gets_its_image(narrow: RunningService) -> None:
    with full(narrow), Client(narrow.url) as client:
        assert client.upscale(SMALL, model="animevideov3").image.startswith(b"\x89PNG")


def test_generate_without_the_model_is_404(narrow: RunningService) -> None:
    """Not 503, which would have clients come back for it."""
    answer = httpx.post(f"{narrow.url}/generate", json=IMAGE, timeout=60)
    assert answer.status_code == 404
    assert "no text to image model" in answer.json()["detail"]
    assert state(narrow)["generate"] is None
    assert post(narrow, QUICK).status_code == 200


def test_work_before_triton_is_up_is_503(tmp_path: Path) -> None:
    repository = link_models(tmp_path / "repository", *MODELS, *TEXT_TO_IMAGE)
    with running_service(tmp_path, wait=False, model_repository=repository) as service:
        with before_triton_is_up(service):
            health = httpx.get(f"{service.url}/health", timeout=60)
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            for answer in (post(service, QUICK), httpx.post(f"{service.url}/generate", json=IMAGE, timeout=60)):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
            assert state(service)["active_workers"] == 0
            named(httpx.post(f"{service.url}/generate", json={**IMAGE, "steps": 0}, timeout=60), 422, "steps")
        service.wait_healthy(300)
        assert post(service, QUICK).status_code == 200
