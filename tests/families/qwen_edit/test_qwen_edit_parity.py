"""The loop against diffusers' QwenImageEditPipeline and QwenImageEditPlusPipeline: same weights and noise, same image.

Their text encoder is told which tokens are images, and their areas are small: see `tiny`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.generation import FinishedImage
from darkroom.pipelines.qwen_edit.pipeline import Components, generate
from darkroom.pipelines.qwen_edit.request import EditRequest
from darkroom.png import encode_png
from tests.families.qwen_edit import tiny
from tests.tiny_sd15 import their_pictures

Pictures = NDArray[np.uint8]
TOLERANCE = 2
"""Levels of 255: the sums are the same but for their order."""
FIRST, SECOND, THIRD = (112, 80), (64, 96), (96, 96)
"""Width and height of images."""
PROMPT = "make the cat red"


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


def picture(size: tuple[int, int], seed: int = 0) -> Pictures:
    """Coloured squares, (height, width, 3)."""
    width, height = size
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return squares.repeat(16, 0).repeat(16, 1)[:height, :width]


def ours(components: Components, images: list[Pictures], **fields: Any) -> Pictures:
    given = {"prompt": PROMPT, "images": [encode_png(one) for one in images], "format": "raw", "align": False, **fields}
    request = EditRequest.parse(given, components.limits, components.checkpoint.request_defaults)

    async def collect() -> list[Pictures]:
        events = [event async for event in generate(request, components)]
        return [np.frombuffer(e.data, np.uint8).reshape(e.shape) for e in events if isinstance(e, FinishedImage)]

    return np.stack(asyncio.run(collect()))


def theirs(pipeline: Any, images: list[Pictures], *, size: tuple[int, int], **arguments: Any) -> Pictures:
    given: Any = [Image.fromarray(one) for one in images]
    if not isinstance(pipeline, QwenImageEditPlusPipeline):
        (given,) = given
    width, height = size
    with tiny.small_areas(), torch.no_grad():
        return their_pictures(pipeline, image=given, prompt=PROMPT, width=width, height=height, **arguments)


def difference(first: Pictures, second: Pictures) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


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
