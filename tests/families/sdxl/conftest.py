"""A repository with a ControlNet. A worker makes it once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from exporters.onnx_export import quiet
from tests import tiny_sdxl
from tests.sd15_exports import export


@pytest.fixture(scope="session")
def sdxl_controlnet_folder(sdxl_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ControlNet, canny, of the base of `sdxl_repository`."""
    folder = tmp_path_factory.mktemp("sdxl-canny") / "tiny-canny-xl"
    with quiet():
        unet = UNet2DConditionModel.from_pretrained(sdxl_repository.parent / "checkpoint" / "base" / "unet")
        tiny_sdxl.make_controlnet(unet).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def controlled_sdxl_repository(sdxl_repository: Path, sdxl_controlnet_folder: Path) -> Path:
    """A copy of `sdxl_repository` with the UNet that has the ControlNet."""
    repository = Path(shutil.copytree(sdxl_repository, sdxl_controlnet_folder.parent / "repository"))
    export("sdxl-controlnet", "--controlnet", sdxl_controlnet_folder, "--output", repository)
    return repository
