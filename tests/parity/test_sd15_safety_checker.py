"""The exported safety checker of a tiny SD 1.5 checkpoint, against diffusers' class and transformers' preprocessing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance

from darkroom.diffusion.image_check import is_flagged
from darkroom.pipelines.sd15 import networks
from exporters import manifest, onnx_export
from exporters.graphs.safety_checker import MEAN, STD, resized
from tests.safety_checkers import Pixels, embeddings, fading, feature_extractor
from tests.sd15_checkpoints import edit_json, write_checkpoint
from tests.sd15_exports import Sd15Export, export, pixels

NAME = networks.SAFETY_CHECKER.name


def original(exported: Sd15Export) -> StableDiffusionSafetyChecker:
    with onnx_export.quiet():
        return StableDiffusionSafetyChecker.from_pretrained(
            exported.checkpoint / "safety_checker", torch_dtype=torch.float32
        ).eval()


def theirs(checker: StableDiffusionSafetyChecker, images: list[Pixels]) -> list[bool]:
    """diffusers' answer about each image."""
    prepared = feature_extractor()(images, return_tensors="pt", input_data_format="channels_last")
    with onnx_export.quiet():
        _, flagged = checker(clip_input=prepared.pixel_values, images=[image.copy() for image in images])
    return [bool(one) for one in flagged]


@pytest.mark.parametrize("side", [(64, 64), (64, 1024), (200, 72), (512, 768), (1000, 224), (333, 517), (24, 24)])
def test_images_are_prepared_to_the_level(side: tuple[int, int]) -> None:
    smooth = pixels(*side, 3) // 4 + np.linspace(0, 190, side[1]).astype(np.uint8)[None, :, None]
    for image in (pixels(*side, 3), smooth):
        ours = resized(torch.tensor(image)[None].permute(0, 3, 1, 2), 224)[0]
        prepared = feature_extractor()([image], return_tensors="pt", input_data_format="channels_last").pixel_values[0]
        levels = (prepared * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
        np.testing.assert_allclose(ours, levels, atol=1e-3)


@torch.no_grad()
def test_flags_are_those_of_diffusers(sd15_export: Sd15Export) -> None:
    images, checker = fading(), original(sd15_export)
    expected = theirs(checker, images)
    assert 10 < sum(expected) < 50, "both outcomes"

    scores = sd15_export.network(networks.SAFETY_CHECKER).run({"image": np.stack(images)})["score"][:, 0]

    assert [is_flagged(float(score)) for score in scores] == expected
    embeds = embeddings(checker, images)
    plain = (cosine_distance(embeds, checker.concept_embeds) - checker.concept_embeds_weights).amax(1).numpy()
    special = (cosine_distance(embeds, checker.special_care_embeds) - checker.special_care_embeds_weights).amax(1)
    adjusted = plain + 0.01 * (special.numpy().round(3) > 0)
    np.testing.assert_allclose(scores, adjusted, atol=1e-5)
    assert [bool(one) for one in plain.round(3) > 0] != expected, "special care decides some"


def test_images_of_other_sizes(sd15_fp32: Sd15Export) -> None:
    network, checker = sd15_fp32.network(networks.SAFETY_CHECKER), original(sd15_fp32)
    for shape in ((64, 64, 3), (72, 104, 3), (512, 256, 3)):
        images = [pixels(*shape, seed=seed) for seed in range(2)]
        scores = network.run({"image": np.stack(images)})["score"][:, 0]
        assert [is_flagged(float(score)) for score in scores] == theirs(checker, images)


def test_it_is_fp32_whatever_the_others_are(sd15_export: Sd15Export) -> None:
    found = manifest.read(sd15_export.repository / NAME / "1")
    unet = manifest.read(sd15_export.repository / networks.UNET.name / "1")
    assert found is not None
    assert unet is not None
    assert (found.precision, unet.precision) == ("fp32", sd15_export.precision)


def test_checkpoint_without_one_takes_it_out_of_the_repository(sd15_fp32: Sd15Export, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(sd15_fp32.repository, repository)
    export("sd15", "--checkpoint", write_checkpoint(tmp_path / "bare", seed=0), "--output", repository)
    assert not (repository / NAME).exists()
    assert (repository / networks.UNET.name / "1" / "model.onnx").exists()


def test_checker_that_cannot_be_exported_is_left_out(sd15_fp32: Sd15Export, tmp_path: Path) -> None:
    repository, checkpoint = tmp_path / "models", tmp_path / "tiny"
    shutil.copytree(sd15_fp32.repository, repository)
    shutil.copytree(sd15_fp32.checkpoint, checkpoint)
    edit_json(checkpoint / "feature_extractor" / "preprocessor_config.json", resample=2)
    output = export("sd15", "--checkpoint", checkpoint, "--output", repository).output
    assert f"{NAME}: left out" in output
    assert "resample is 2, expected 3" in output
    assert not (repository / NAME).exists()
    old = json.loads((checkpoint / "feature_extractor" / "preprocessor_config.json").read_text())
    old |= {"resample": 3, "size": 224, "crop_size": 224}  # as older checkpoints write them
    (checkpoint / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(old))
    export("sd15", "--checkpoint", checkpoint, "--output", repository)
    assert (repository / NAME / "1" / "model.onnx").exists()
