"""The pipeline on the real networks, in process: tiled against untiled, and no seam."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from darkroom.pipelines.upscale.networks import NETWORKS, UpscaleNetwork
from darkroom.pipelines.upscale.pipeline import UpscaleContext, upscale
from darkroom.pipelines.upscale.request import UpscaleRequest
from darkroom.pipelines.upscale.settings import Settings
from darkroom.serving.networks import OrtNetwork
from tests.pictures import encoded, photo, pixels, psnr
from tests.service import ROOT

FACE = encoded(photo(180, 40, 128, 112))


def enlarge(network: UpscaleNetwork, *, tile: int) -> NDArray[np.uint8]:
    limits = Settings()
    request = UpscaleRequest.parse({"model": network.label, "tile": tile}, limits)
    model = OrtNetwork(ROOT / "model_repository" / network.model_name / "1" / "model.onnx")
    runner = UpscaleContext(network=model, limits=limits)
    return pixels(asyncio.run(upscale(FACE, request, runner)).data)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.label)
def test_tiled_against_untiled(network: UpscaleNetwork) -> None:
    """At least 40 dB, and along the tiles' borders no more difference than an invisible seam."""
    whole, tiled = enlarge(network, tile=0), enlarge(network, tile=64)
    assert psnr(whole, tiled) >= 40
    border = 64 * network.scale  # 128 pixels in tiles of 64 meet in the middle
    across = np.abs(tiled[:, border].astype(int) - tiled[:, border - 1].astype(int)).mean()
    same_place = np.abs(whole[:, border].astype(int) - whole[:, border - 1].astype(int)).mean()
    assert across <= same_place + 1.5, "a step at the border that the untiled picture has not"
