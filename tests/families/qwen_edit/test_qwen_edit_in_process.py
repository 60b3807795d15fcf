"""The pipeline `qwen_edit` in one process, on a tiny export: sizes, masks, five images, details, cancelling."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from darkroom.pipelines.qwen_edit import networks
from darkroom.png import encode_png
from darkroom.serving.in_process import InProcess
from tests.in_process import used
from tests.pictures import pixels
from tests.served_networks import collect

T = TypeVar("T")
TRANSFORMER = networks.TRANSFORMER.name


def photo(width: int, height: int, seed: int = 0) -> Any:
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return squares.repeat(8, 0).repeat(8, 1)[:height, :width]


def images(*photos: Any) -> Any:
    return np.array([encode_png(one) for one in photos], np.object_)


FIELDS: dict[str, Any] = {
    "prompt": "make the cat red",
    "images": images(photo(112, 80)),
    "negative_prompt": "a dog",
    "seed": np.array([5], np.int64),
    "steps": 3,
}


def with_models(repository: Path, work: Callable[[InProcess], Awaitable[T]]) -> T:
    return used(InProcess(repository, networks.specs()), work)


def edit(repository: Path, **fields: Any) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
    """The one result, its details, and all responses."""
    responses = with_models(repository, lambda models: collect(models, "qwen_edit", **{**FIELDS, **fields}))
    return pixels(responses[-1]["image"].tobytes()), json.loads(responses[-1]["details"][0]), responses


def test_qwen_edit_in_process_keeps_the_size_and_what_the_mask_keeps(qwen_edit_repository: Path) -> None:
    first = photo(90, 70)
    mask = np.full((70, 90, 4), 255, np.uint8)
    mask[10:40, 20:60, 3] = 0
    target = io.BytesIO()
    Image.fromarray(mask).save(target, "PNG")
    result, details, responses = edit(
        qwen_edit_repository,
        images=images(first),
        mask=np.frombuffer(target.getvalue(), np.uint8),
        preview_every=1,
    )
    assert result.shape == (70, 90, 3)
    kept = mask[..., 3] == 255
    assert np.array_equal(result[kept], first[kept])
    assert not np.array_equal(result[~kept], first[~kept])
    assert (details["edited_width"], details["edited_height"], details["input_images"]) == (96, 80, 1)
    assert len(details["displacement"]) == 2
    previews = [Image.open(io.BytesIO(one["preview"].tobytes())).size for one in responses if "preview" in one]
    assert previews == [(12, 10), (12, 10)]


def test_qwen_edit_in_process_reads_five_images(qwen_edit_repository: Path) -> None:
    several = [photo(112, 80), *(photo(64, 64, seed) for seed in (1, 2, 3, 4))]
    five, details, _ = edit(qwen_edit_repository, images=images(*several))
    four, _, _ = edit(qwen_edit_repository, images=images(*several[:4]))
    assert details["input_images"] == 5
    assert five.shape == four.shape == (80, 112, 3)
    assert np.abs(five.astype(int) - four.astype(int)).max() > 2


@pytest.mark.parametrize(("fields", "scale"), [({}, 4.0), ({"negative_prompt": None}, 1.0), ({"width": 64}, 4.0)])
def test_qwen_edit_in_process_says_what_was_done(
    qwen_edit_repository: Path, fields: dict[str, Any], scale: float
) -> None:
    given = {name: value for name, value in {**FIELDS, **fields}.items() if value is not None}
    responses = with_models(qwen_edit_repository, lambda models: collect(models, "qwen_edit", **given))
    details = json.loads(responses[-1]["details"][0])
    assert details["true_guidance_scale"] == scale
    height = pixels(responses[-1]["image"].tobytes()).shape[0]
    assert (details["width"], details["height"]) == (given.get("width", 112), height)


def test_qwen_edit_in_process_edits_an_image_of_a_few_pixels(qwen_edit_repository: Path) -> None:
    result, details, _ = edit(qwen_edit_repository, images=images(photo(3, 5)))
    assert result.shape == (5, 3, 3)
    assert (details["edited_width"], details["edited_height"]) == (16, 16)


def test_qwen_edit_in_process_stops_within_a_step(qwen_edit_repository: Path) -> None:
    async def work(models: InProcess) -> int:
        async with aclosing(models.stream("qwen_edit", {**FIELDS, "steps": 50})) as responses:
            async for response in responses:
                if response["progress"][0] == 2:
                    break
        _, at_leaving = models.counts(TRANSFORMER)
        await models.finished()
        return models.counts(TRANSFORMER)[1] - at_leaving

    assert with_models(qwen_edit_repository, work) <= 1


def test_qwen_edit_in_process_shows_the_model_a_map(qwen_edit_repository: Path) -> None:
    made, details, _ = edit(qwen_edit_repository, make_map="edges")
    assert details["input_images"] == 2
    assert made.shape == (80, 112, 3)
