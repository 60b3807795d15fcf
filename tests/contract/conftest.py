"""One running service for all contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.service import RunningService, running_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """`darkroom serve` with small limits, so that limits can be reached, and no canaries to disturb counts."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(
        folder,
        canary_interval=3600,
        max_upload_mb=20,
        max_batch_mb=30,
        max_batch_files=5,
        cors_origins="http://shop.example",
    ) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    """A plain HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client
