"""Full-size runs, behind the marker `heavy`: memory on a 2048x2048 picture, and every model against ncnn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks import ncnn
from benchmarks.memory import Peak
from darkroom.pipelines.upscale.networks import NETWORKS
from tests.pictures import PHOTO, encoded, photo, pixels, psnr
from tests.service import RunningService, running_service

pytestmark = pytest.mark.heavy

GB = 1 << 30


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[RunningService]:
    with running_service(tmp_path, canary_interval=3600, task_timeout=3600) as running:
        yield running


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("model", ["animevideov3", "x4plus"])
def test_2048_to_8192_in_under_3_gb(fresh: RunningService, model: str) -> None:
    data = encoded(photo().resize((2048, 2048), Image.Resampling.BICUBIC))
    with Peak(fresh) as peak:
        answer = httpx.post(f"{fresh.url}/api/upscale", files={"file": data}, data={"model": model}, timeout=3600)
    assert answer.status_code == 200
    assert pixels(answer.content).shape == (8192, 8192, 3)
    largest = sum(peak.memory.values())
    assert largest < 3 * GB, f"{largest / GB:.2f} GB"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.label)
def test_512_photo_against_ncnn(fresh: RunningService, network: object, tmp_path: Path) -> None:
    label = network.label  # type: ignore[attr-defined]
    with PHOTO.open("rb") as file:
        ours = httpx.post(f"{fresh.url}/api/upscale", files={"file": file}, data={"model": label}, timeout=1800)
    ncnn.upscale(PHOTO, label, tmp_path / "ncnn.png")
    assert psnr(pixels(ours.content), pixels((tmp_path / "ncnn.png").read_bytes())) >= 40
