"""diffusers' pipeline of the checkpoint, for pictures of 128 x 128 pixels and without torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from training.demo.qwen_edit.models import THUMBNAIL
from training.demo.qwen_edit.pictures import Pixels
from training.demo.qwen_edit.samples import BLANK
from training.render import SIDE

PROCESSOR = "processor"


class PictureProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Reads texts and pictures. Upstream's wants a processor for videos, too, which needs torchvision."""

    def check_argument_for_proper_class(self, *arguments: Any) -> Any:
        """Take what is given."""


def make_image_processor() -> Qwen2VLImageProcessorPil:
    """Shows the text encoder every picture in 56 x 56 pixels."""
    return Qwen2VLImageProcessorPil(size={"shortest_edge": THUMBNAIL**2, "longest_edge": THUMBNAIL**2})


def make_processor(image_processor: Qwen2VLImageProcessorPil, tokenizer: Qwen2Tokenizer) -> PictureProcessor:
    """The processor of the pipeline."""
    return PictureProcessor(image_processor=image_processor, tokenizer=tokenizer)


def load_pipeline(folder: Path) -> QwenImageEditPlusPipeline:
    """diffusers' pipeline of a checkpoint. Call it through `edit`."""
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
    processor = make_processor(Qwen2VLImageProcessorPil.from_pretrained(folder / PROCESSOR), tokenizer)
    pipeline = QwenImageEditPlusPipeline.from_pretrained(folder, processor=processor, tokenizer=tokenizer)
    _with_image_positions(pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit(
    pipeline: Any, pictures: tuple[Pixels, ...], sentence: str, *, steps: int, guidance: float, seed: int
) -> Pixels:
    """The result of an edit: (128, 128, 3) uint8."""
    with _small_pictures():
        made = pipeline(
            image=[Image.fromarray(picture) for picture in pictures],
            prompt=sentence,
            negative_prompt=BLANK if guidance > 1 else None,
            true_cfg_scale=guidance,
            guidance_scale=None,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            width=SIDE,
            height=SIDE,
            output_type="np",
        ).images[0]
    return np.asarray((made * 255).round(), np.uint8)


@contextmanager
def _small_pictures() -> Iterator[None]:
    """Have the pipeline look at pictures as large as they are; it has about a megapixel fixed in its code."""
    usual = pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE
    pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE = SIDE * SIDE
    try:
        yield
    finally:
        pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE = usual


def _with_image_positions(encoder: Qwen2_5_VLForConditionalGeneration) -> None:
    """Tell the encoder which tokens are images, which diffusers 0.42 forgets with transformers 5
    (https://github.com/huggingface/diffusers/issues/14194)."""

    def add(module: Any, arguments: Any, named: dict[str, Any]) -> Any:
        named["mm_token_type_ids"] = (named["input_ids"] == encoder.config.image_token_id).int()
        return arguments, named

    encoder.register_forward_pre_hook(add, with_kwargs=True)
