"""Models for maps that a setting names by a hub id: fetched before the start, and found by the pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from darkroom.diffusion.maps import fetched, load_maps
from darkroom.settings import Settings
from exporters.qwen_edit import command
from tests.hub import REPOSITORY, Hub

PIPELINE = "qwen_edit"
VARIABLE = "QWEN_EDIT_KEYPOINTS_MODEL"


@pytest.fixture
def stored(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that has a model for keypoints, and a home without checkpoints."""
    backbone = VitPoseBackboneConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 48], patch_size=[16, 16],
        out_indices=[2],
    )  # fmt: skip
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))
    model.save_pretrained(tmp_path / "pose")
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "pose").iterdir()}
    hub.large = set()
    for name in ("ROOT", "CACHE", "DEMO"):
        monkeypatch.setattr(command, name, tmp_path / name.lower())
    monkeypatch.setattr(command, "_export_asked", lambda settings, repository: None)
    return hub


def test_map_model_of_the_hub_is_fetched_for_the_pipeline(
    stored: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tmp_path / "models" / PIPELINE / "1"
    pipeline.mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, REPOSITORY)
    command.prepare(Settings(_env_file=None), tmp_path / "models")
    maps = load_maps({"depth": None, "keypoints": REPOSITORY}, pipeline)
    image = np.full((64, 48, 3), 120, np.uint8)
    own = load_maps({"keypoints": str(tmp_path / "pose")})
    assert np.array_equal(maps["keypoints"](image), own["keypoints"](image))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "pose"))
    command.prepare(Settings(_env_file=None), tmp_path / "models")
    assert not fetched("keypoints", pipeline).exists(), "a folder is read where it is"


def test_map_model_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="little-diffusion"):
        load_maps({"keypoints": REPOSITORY}, tmp_path)
