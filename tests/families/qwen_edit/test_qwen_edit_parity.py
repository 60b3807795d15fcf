"""The loop against diffusers' QwenImageEditPipeline and QwenImageEditPlusPipeline: same weights and noise, same image.

Their text encoder is told which tokens are images, and their areas are small: see `tiny`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from darkroom.pipelines.qwen_edit.pipeline import Components
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import (
    FIRST,
    SECOND,
    THIRD,
    TOLERANCE,
    Pictures,
    difference,
    ours,
    picture,
    theirs,
)


@dataclass(frozen=True)
class Checkpoint:
    pipeline: Any
    components: Components


@pytest.fixture(scope="module", params=["edit", "2509", "2511"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = tiny.write_checkpoint(
        folder / "checkpoint", plus=request.param != "edit", zero_cond_t=request.param == "2511"
    )
    return Checkpoint(pipeline, tiny.make_components(pipeline, folder / "checkpoint", folder / "models"))


def compare(
    checkpoint: Checkpoint, images: list[Pictures], *, size: tuple[int, int] = FIRST, **fields: Any
) -> Pictures:
    """The largest difference is in bounds; returns our images."""
    negative, scale = fields.get("negative_prompt"), fields.get("true_guidance_scale", 4.0)
    mine = ours(checkpoint.components, images, seed=7, steps=3, **fields)
    other = theirs(
        checkpoint.pipeline,
        images,
        size=size,
        seed=7,
        num_inference_steps=3,
        negative_prompt=negative,
        true_cfg_scale=scale,
        num_images=fields.get("num_images", 1),
    )
    assert mine.shape == other.shape
    assert difference(mine, other) <= TOLERANCE
    assert mine.std() > 5
    return mine


@pytest.mark.parametrize("negative", [None, "", "a dog"])
def test_qwen_edit_parity_with_one_image(checkpoint: Checkpoint, negative: str | None) -> None:
    guided = compare(checkpoint, [picture(FIRST)], negative_prompt=negative)
    if negative is not None:
        plain = ours(checkpoint.components, [picture(FIRST)], seed=7, steps=3)
        other = ours(checkpoint.components, [picture(FIRST)], seed=7, steps=3, prompt="a blue dog")
        assert difference(guided, plain) > 3 * TOLERANCE
        assert difference(other, plain) > 3 * TOLERANCE


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("negative", [None, " "])
def test_qwen_edit_parity_with_several_images(checkpoint: Checkpoint, count: int, negative: str | None) -> None:
    if not checkpoint.components.checkpoint.plus:
        pytest.skip("this model reads one image")
    images = [picture(size, seed) for seed, size in enumerate((FIRST, SECOND, THIRD)[:count])]
    made = compare(checkpoint, images, negative_prompt=negative)
    one = ours(checkpoint.components, images[:1], seed=7, steps=3, negative_prompt=negative)
    assert difference(made, one) > 3 * TOLERANCE


def test_qwen_edit_parity_of_another_size_and_two_results(checkpoint: Checkpoint) -> None:
    made = compare(
        checkpoint, [picture(SECOND)], size=(64, 128), width=64, height=128, num_images=2, negative_prompt="a dog"
    )
    assert difference(made[0], made[1]) > TOLERANCE


def test_qwen_edit_parity_without_guidance_at_scale_one(checkpoint: Checkpoint) -> None:
    compare(checkpoint, [picture(FIRST)], negative_prompt="a dog", true_guidance_scale=1.0)
