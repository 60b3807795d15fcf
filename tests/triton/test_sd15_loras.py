"""LoRAs through a real tritonserver: requests with different ones share executions, and a missing one is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from darkroom.diffusion.lora_weights import loras_text
from darkroom.errors import LoraMissing, from_wire
from darkroom.pipelines.sd15 import networks
from darkroom.request.loras import LoraChoice
from darkroom.serving.lora_cache import BaseLoras, LoraCache
from darkroom.serving.lora_layout import LoraLayout
from exporters.config import Placement, render
from tests.conftest import RunningTriton, running_triton
from tests.lora_matrices import make_lora
from tests.pictures import pixels
from tests.service import ROOT, link_models
from tests.triton.streams import Stream, rows_and_executions

UNET = networks.UNET.name
A, B = "a" * 64, "b" * 64
FIELDS: dict[str, Any] = {"prompt": "a photo of a cat", "seed": np.int64(5), "width": 64, "height": 64, "steps": 4}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> BaseLoras:
    found = [
        LoraLayout.read(ROOT / "model_repository" / one.name / "1") for one in (networks.UNET, networks.TEXT_ENCODER)
    ]
    cache = LoraCache(tmp_path_factory.mktemp("loras"), limit=1e9)
    return BaseLoras(cache=cache, layouts=[layout for layout in found if layout is not None])


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory, stored: BaseLoras) -> Iterator[RunningTriton]:
    folder = tmp_path_factory.mktemp("sd15")
    repository = link_models(
        folder / "repository",
        *(spec.name for spec in (networks.TEXT_ENCODER, networks.VAE_DECODER, networks.PIPELINE)),
    )
    (repository / UNET).mkdir()
    (repository / UNET / "1").symlink_to(ROOT / "model_repository" / UNET / "1")
    waiting = render(networks.UNET, Placement(threads=1, queue_delay_us=20000))
    (repository / UNET / "config.pbtxt").write_text(waiting)
    for seed, (digest, rank) in enumerate(((A, 4), (B, 16))):
        stored.write(digest, make_lora(list(stored.layouts), rank, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_CACHE_DIR", str(stored.cache.folder))
        with running_triton(repository, folder, timeout=120) as running:
            yield running


def _loras(*digests: str) -> str:
    return loras_text([LoraChoice(digest=digest, weight=0.8) for digest in digests])


def _image(stream: Stream) -> np.ndarray[Any, Any]:
    return pixels(stream.all()[-1]["image"].tobytes())


def _refused(triton: RunningTriton, digest: str) -> InferenceServerException:
    stream = Stream(triton, "sd15", **FIELDS, loras=_loras(digest))
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    return caught.value


def test_lora_requests_share_executions(triton: RunningTriton) -> None:
    wanted: list[dict[str, Any]] = [{}, {"loras": _loras(A)}, {"loras": _loras(B)}, {"loras": _loras(A, B)}]
    alone = [_image(Stream(triton, "sd15", **FIELDS, **more)) for more in wanted]
    rows, batches = rows_and_executions(triton, UNET)
    streams = [Stream(triton, "sd15", **FIELDS, **more) for more in wanted]
    together = [_image(stream) for stream in streams]
    more_rows, more_batches = (after - before for after, before in
                               zip(rows_and_executions(triton, UNET), (rows, batches), strict=True))  # fmt: skip
    assert more_batches < 0.6 * more_rows / 2, "steps of different LoRAs ran together"
    for first, second in zip(alone, together, strict=True):
        assert np.abs(first.astype(int) - second).max() <= 2
    for other in alone[1:]:
        assert np.abs(alone[0].astype(int) - other).max() > 20


def test_lora_that_is_missing_is_named(triton: RunningTriton) -> None:
    unknown = "0" * 64
    error = from_wire(_refused(triton, unknown).message())
    assert isinstance(error, LoraMissing)
    assert error.digest == unknown


def test_lora_that_comes_later_is_read(triton: RunningTriton, stored: BaseLoras) -> None:
    late = "c" * 64
    assert "lora_missing" in _refused(triton, late).message()
    stored.write(late, make_lora(list(stored.layouts[:1]), 8, 7))
    assert np.abs(_image(Stream(triton, "sd15", **FIELDS, loras=_loras(late))).astype(int)).std() > 5
