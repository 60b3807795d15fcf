"""Prompts with images for the text encoder, and what the transformer reads of its answer.

Follows `_get_qwen_prompt_embeds` of diffusers 0.42, pipelines/qwenimage/pipeline_qwenimage_edit.py and
pipeline_qwenimage_edit_plus.py: the templates, and what of them is left out. Unlike there image tokens have their
positions in three dimensions: see `darkroom.pipelines.qwen_edit.text_encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from darkroom.errors import InvalidInput
from darkroom.images import Pixels
from darkroom.pipelines.qwen_edit.checkpoint import QwenEditCheckpointInfo
from darkroom.serving.networks import Array, Network, Tensors

_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
_STEP = 64
"""Prompts are padded to multiples of it, so that few different lengths occur."""


@dataclass(frozen=True, kw_only=True)
class ReadPrompts:
    """The prompts of a request as the text encoder takes them.

    :param pictures: pixel_values and image_grid_thw of the images, of which all texts speak.
    :param texts: the names of the fields, and their tokens with those of the images.
    :param dropped: how many tokens at the start of each the transformer does not read.
    """

    pictures: Tensors
    texts: Sequence[tuple[str, list[int]]]
    dropped: int

    def require_at_most(self, most: int) -> None:
        """:raises InvalidInput: the transformer would read more tokens of a text than that."""
        for param, tokens in self.texts:
            if len(tokens) - self.dropped > most:
                raise InvalidInput(
                    f"{param} and the images must be at most {most} tokens together; got {len(tokens) - self.dropped}.",
                    param=param,
                )


@dataclass(frozen=True, kw_only=True)
class PromptReader:
    """Makes the inputs of the text encoder.

    :param tokenizer: neither pads nor cuts off.
    :param processor: transformers' Qwen2VLImageProcessorPil.
    """

    checkpoint: QwenEditCheckpointInfo
    tokenizer: Tokenizer
    processor: Any

    def read(self, texts: Sequence[tuple[str, str]], images: Sequence[Pixels]) -> ReadPrompts:
        """What the text encoder gets. Takes tens of milliseconds: for a thread.

        :param texts: texts with the names of their fields; all speak of the same images.
        :raises InvalidInput: see `tokens`.
        """
        pictures = self.images(images)
        grids = pictures["image_grid_thw"]
        read = [(param, self.tokens(text, grids, param)) for text, param in texts]
        return ReadPrompts(pictures=pictures, texts=read, dropped=self.checkpoint.dropped_tokens)

    def images(self, images: Sequence[Pixels]) -> Tensors:
        """The patches of images (height, width, 3) uint8: pixel_values (P, D) float32 and image_grid_thw (I, 3)."""
        made = self.processor(images=list(images), return_tensors="np", input_data_format="channels_last")
        return {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"].astype(np.int64)}

    def tokens(self, text: str, grids: Array, param: str) -> list[int]:
        """The tokens of a prompt with its images.

        :param grids: image_grid_thw.
        :param param: the field that the text comes from.
        :raises InvalidInput: the text has the token that stands for images.
        """
        token = self.checkpoint.image_token
        if token in text:
            raise InvalidInput(f"{param} must not have {token}, which stands for an image.", param=param)
        merged = self.processor.merge_size**2
        images = [f"<|vision_start|>{token * int(grid.prod() // merged)}<|vision_end|>" for grid in grids]
        if self.checkpoint.plus:
            images = [f"Picture {number}: {image}" for number, image in enumerate(images, 1)]
        # As a batch of one: `encode` keeps the interpreter's lock, and with it the event loop, until it is done.
        (made,) = self.tokenizer.encode_batch([_TEMPLATE.format("".join(images) + text)])
        ids: list[int] = made.ids
        return ids


def make_processor(checkpoint: QwenEditCheckpointInfo) -> Any:
    """transformers' processor of images, as the checkpoint sets it.

    The one for Pillow: Qwen2VLProcessor, which holds it, needs torchvision for videos.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil.from_dict(checkpoint.image_processor)


async def encode_prompts(prompts: ReadPrompts, encoder: Network) -> list[Array]:
    """What the transformer reads of each text: (tokens, width) float32, as many tokens as the text has."""
    read = [tokens for _, tokens in prompts.texts]
    length = -(-max(map(len, read)) // _STEP) * _STEP
    ids, seen = np.zeros((2, len(read), length), np.int64)
    for row, tokens in enumerate(read):
        ids[row, : len(tokens)], seen[row, : len(tokens)] = tokens, 1
    answer = await encoder(
        {
            "input_ids": ids,
            "attention_mask": seen,
            **{name: np.repeat(value[None], len(read), axis=0) for name, value in prompts.pictures.items()},
        }
    )
    states = zip(answer["prompt_embeds"], read, strict=True)
    return [row[prompts.dropped : len(tokens)] for row, tokens in states]
