"""Services that the files of a group of tests share (tests/workers.py). A worker has one of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from darkroom.pipelines.upscale.networks import NETWORKS
from tests.browser import Complaints, chromium, visitor
from tests.service import RunningService, link_models, running_service

SD15 = ("sd15", "sd15_loras", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15_vae_encoder")


class SharedService:
    """The service that runs at present. It is stopped when another one is asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._stack = ExitStack()
        self._running: dict[str, RunningService] = {}

    def get(self, name: str, start: Callable[[Path], AbstractContextManager[RunningService]]) -> RunningService:
        """Return the service of that name.

        :param start: starts it, with a folder for its files; called unless it runs.
        """
        if name not in self._running:
            self.stop()
            self._running[name] = self._stack.enter_context(start(self._factory.mktemp(name)))
        return self._running[name]

    def stop(self) -> None:
        """Stop what runs."""
        self._running.clear()
        self._stack.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    services = SharedService(tmp_path_factory)
    yield services
    services.stop()


@pytest.fixture(scope="module")
def service(shared: SharedService) -> RunningService:
    """All models with small limits of bodies, so that these can be reached, and no canaries to disturb counts."""
    limits: dict[str, object] = {"max_upload_mb": 20, "max_batch_mb": 30, "max_batch_files": 5}
    limits |= {"canary_interval": 3600, "cors_origins": "http://shop.example"}
    return shared.get("service", lambda folder: running_service(folder, **limits))


@pytest.fixture(scope="module")
def lora_service(shared: SharedService) -> RunningService:
    """SD 1.5 with LoRAs; it trains on the checkpoint that it serves."""

    def start(folder: Path) -> AbstractContextManager[RunningService]:
        repository = link_models(folder / "models", *SD15)
        return running_service(folder, model_repository=repository, canary_interval=3600, train_nice=0)

    return shared.get("lora_service", start)


@pytest.fixture(scope="module")
def small_service(shared: SharedService) -> RunningService:
    """SD 1.5 with its ControlNet and the upscaler, with small limits: every image is made in one step."""
    limits: dict[str, object] = {"sd15_max_steps": 1, "sd15_max_images": 1, "hidream_max_steps": 7}
    limits |= {"upscale_max_pixels": 128 * 128, "upscale_max_output_pixels": 128 * 128 * 64}
    limits |= {"canary_interval": 3600, "submit_operation": "generate", "submit_enlarge": "none"}
    limits |= {"sd15_max_pixels": 1024 * 1024, "cors_origins": "http://shop.example"}

    def start(folder: Path) -> AbstractContextManager[RunningService]:
        upscaler = ("upscale", *(network.model_name for network in NETWORKS))
        repository = link_models(folder / "models", *SD15, "sd15_unet_canny", *upscaler)
        return running_service(folder, model_repository=repository, **limits)

    return shared.get("small_service", start)


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    """A plain HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, service: RunningService) -> Iterator[Page]:
    """A page of a new visitor. It has no errors in the end, and has asked nobody but the service. It has no service
    worker, as Playwright cannot answer requests that go through one."""
    complaints = Complaints()
    with visitor(browser, service.url, service_workers="block") as page:
        complaints.listen(page, service.url)
        yield page
    assert (complaints.errors, complaints.foreign) == ([], [])
