"""The text encoder in torch: Qwen2.5-VL reads prompts with their images.

Architecture and weights are transformers' `Qwen2_5_VLForConditionalGeneration`, without its head. Image tokens have
positions in three dimensions (M-RoPE), which the model was trained with. diffusers 0.42 with transformers 5 leaves them
out by mistake (https://github.com/huggingface/diffusers/issues/14194); with transformers 4 it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLModel


def load_text_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Qwen2_5_VLModel:
    """The model of a folder in transformers' layout, ready for `encode`.

    Weights are read file by file, in whatever names transformers' versions have given them.

    :param folder: has config.json and the weights as one or several safetensors.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from transformers import Qwen2_5_VLModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of the head, which is left out, and draw progress bars into the log
    logging.disable_progress_bar()
    model, loaded = Qwen2_5_VLModel.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if wrong := [*loaded["missing_keys"], *loaded["mismatched_keys"]]:  # they would get random numbers
        raise RuntimeError(f"the weights are those of another text encoder: {wrong[0]} is missing or has another size")
    return model.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def encode(model: Qwen2_5_VLModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The last hidden state of B prompts with their images; padding behind a prompt changes nothing in it.

    :param inputs: tensors on any device, batch first:
        input_ids (B, T) int64, with one image token for each part of an image;
        attention_mask (B, T) int64, 1 for tokens and 0 for padding behind them;
        pixel_values (B, P, D) float, the patches of the images of each row;
        image_grid_thw (B, I, 3) int64, frames, and patches along height and width, of each image.
    :returns: (B, T, width) float32 on the model's device.
    :raises ValueError: image tokens and patches do not agree.
    """
    device = model.device
    tokens = inputs["input_ids"].to(device)
    states: Tensor = model(
        input_ids=tokens,
        attention_mask=inputs["attention_mask"].to(device),
        pixel_values=inputs["pixel_values"].to(device).flatten(0, 1),
        image_grid_thw=inputs["image_grid_thw"].to(device).flatten(0, 1),
        mm_token_type_ids=(tokens == model.config.image_token_id).int(),
        use_cache=False,
    ).last_hidden_state
    return states.float()
