"""What the text encoder gets: images in whatever words a checkpoint describes them, and prompts of any length."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from darkroom.errors import InvalidInput
from darkroom.pipelines.qwen_edit.pipeline import Components
from darkroom.pipelines.qwen_edit.prompts import PromptReader, make_processor
from darkroom.serving.networks import Array, Tensors
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import FIRST, ours, picture
from tests.families.qwen_edit.facts import facts

PUBLISHED: dict[str, Any] = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": None,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "input_data_format": None,
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "patch_size": 14,
    "processor_class": "Qwen2VLProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"longest_edge": 12845056, "shortest_edge": 3136},
    "temporal_patch_size": 2,
}
"""preprocessor_config.json as Qwen/Qwen-Image-Edit-2509 has it."""


@pytest.mark.parametrize("size", [(56, 84), (400, 368), (30, 200)])
def test_qwen_edit_images_are_read_as_by_transformers(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    made = make_processor(replace(facts(plus=True), image_processor=PUBLISHED))
    ours = made(images=[image], return_tensors="np", input_data_format="channels_last")
    theirs = Qwen2VLImageProcessorPil(size=PUBLISHED["size"])(images=[Image.fromarray(image)], return_tensors="np")
    assert ours["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    assert np.array_equal(ours["pixel_values"], theirs["pixel_values"])


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    folder = tmp_path_factory.mktemp("prompts")
    pipeline = tiny.write_checkpoint(folder / "checkpoint", plus=True)
    return tiny.make_components(pipeline, folder / "checkpoint", folder / "models")


@pytest.mark.parametrize("param", ["prompt", "negative_prompt"])
def test_qwen_edit_prompt_that_is_too_long_is_refused_before_any_network_is_asked(
    components: Components, param: str
) -> None:
    """Encoding 4000 letters takes more than a second of the text encoder, which others wait for."""

    async def asked(inputs: Tensors) -> dict[str, Array]:
        raise AssertionError("a network was asked")

    none = replace(components, text_encoder=asked, vae_encoder=asked, transformer=asked)
    given: dict[str, Any] = {"negative_prompt": " ", param: "x" * 4000}
    with pytest.raises(InvalidInput, match=f"^{param} and the images must be at most 4092 tokens together") as caught:
        ours(none, [picture(FIRST)], seed=7, **given)
    assert caught.value.param == param


def test_qwen_edit_longest_prompt_has_all_positions_but_those_of_the_images(components: Components) -> None:
    with pytest.raises(InvalidInput) as caught:
        ours(components, [picture(FIRST)], seed=7, prompt="x" * 4000)
    over = int(caught.value.message.rsplit(" ", 1)[1].rstrip(".")) - 4092
    assert ours(components, [picture(FIRST)], seed=7, steps=2, prompt="x" * (4000 - over)).std() > 0
    with pytest.raises(InvalidInput, match="got 4093"):
        ours(components, [picture(FIRST)], seed=7, steps=2, prompt="x" * (4001 - over))


def test_qwen_edit_prompts_are_read_outside_of_the_event_loop(components: Components) -> None:
    readers: list[int] = []

    class Noting(PromptReader):
        def images(self, images: Sequence[Any]) -> Tensors:
            readers.append(threading.get_ident())
            return super().images(images)

        def tokens(self, text: str, grids: Array, param: str) -> list[int]:
            readers.append(threading.get_ident())
            return super().tokens(text, grids, param)

    own = components.reader
    reader = Noting(checkpoint=own.checkpoint, tokenizer=own.tokenizer, processor=own.processor)
    ours(replace(components, reader=reader), [picture(FIRST)], seed=7, steps=2)
    assert len(readers) == 2
    assert threading.get_ident() not in readers


def turns_while(work: Callable[[], object]) -> int:
    """How often an event loop comes round while something runs in a thread."""
    running = False

    def noted() -> None:
        nonlocal running
        running = True
        work()
        running = False

    async def count() -> int:
        turns, task = 0, asyncio.create_task(asyncio.to_thread(noted))
        while not task.done():
            turns += running
            await asyncio.sleep(0)
        await task
        return turns

    return asyncio.run(count())


def test_qwen_edit_reading_a_long_prompt_leaves_the_interpreter_to_others(components: Components) -> None:
    """`Tokenizer.encode` does not."""
    text, grids = "漢🙂x" * 20_000, np.array([[1, 4, 6]])
    tokenizer: Tokenizer = components.reader.tokenizer
    locked = turns_while(lambda: tokenizer.encode(text))
    assert turns_while(lambda: components.reader.tokens(text, grids, "prompt")) > 10 * (locked + 10)
