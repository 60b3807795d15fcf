"""Images for the text encoder, in whatever words a checkpoint describes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from darkroom.pipelines.qwen_edit.prompts import make_processor
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
