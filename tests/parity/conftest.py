"""Repositories with exports of tiny SD 1.5 checkpoints. A worker makes each of them once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from darkroom.registry import all_specs
from exporters import config
from exporters.config import Placement
from tests.safety_checkers import brightness_checker
from tests.sd15_checkpoints import write_checkpoint, write_controlnet
from tests.sd15_exports import Sd15Export, export, read_back


@pytest.fixture(scope="session")
def controlnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ControlNet, canny, of the checkpoint of `sd15_fp32`."""
    return write_controlnet(tmp_path_factory.mktemp("canny") / "tiny-canny")


@pytest.fixture(scope="session")
def sd15_fp32(tmp_path_factory: pytest.TempPathFactory, controlnet_folder: Path) -> Sd15Export:
    """The exports of a tiny checkpoint in fp32."""
    folder = tmp_path_factory.mktemp("fp32")
    checkpoint, repository = write_checkpoint(folder / "tiny", seed=0, checker=brightness_checker()), folder / "models"
    config.write_configs(repository, all_specs(), Placement())
    output = export("sd15", "--checkpoint", checkpoint, "--output", repository).output
    output += export("sd15-controlnet", "--controlnet", controlnet_folder, "--output", repository).output
    return Sd15Export(repository, checkpoint, "fp32", output, *read_back(checkpoint, controlnet_folder))


@pytest.fixture(scope="session")
def sd15_fp16(sd15_fp32: Sd15Export, tmp_path_factory: pytest.TempPathFactory, controlnet_folder: Path) -> Sd15Export:
    """The exports of another checkpoint, which is stored in fp16, into a copy of the repository of `sd15_fp32`."""
    folder = tmp_path_factory.mktemp("fp16")
    checkpoint, repository = (
        write_checkpoint(folder / "other", seed=9, half=True, checker=brightness_checker()),
        folder / "models",
    )
    shutil.copytree(sd15_fp32.repository, repository)
    arguments = ("sd15", "--checkpoint", checkpoint, "--output", repository, "--precision", "fp16")
    output = export(*arguments).output
    return Sd15Export(repository, checkpoint, "fp16", output, *read_back(checkpoint, controlnet_folder))


@pytest.fixture(params=["sd15_fp32", "sd15_fp16"])
def sd15_export(request: pytest.FixtureRequest) -> Sd15Export:
    """Each of the two exports."""
    chosen: Sd15Export = request.getfixturevalue(request.param)
    return chosen
