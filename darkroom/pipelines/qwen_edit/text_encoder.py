"""The text encoder in torch: Qwen2.5-VL reads prompts with their images.

Architecture and weights are transformers' `Qwen2_5_VLForConditionalGeneration`, without its head. Image tokens have
positions in three dimensions (M-RoPE), which the model was trained with. diffusers 0.42 with transformers 5 leaves them
out by mistake (https://github.com/huggingface/diffusers/issues/14194); with transformers 4 it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from darkroom.diffusion.int8 import use_int8
from darkroom.diffusion.torch_weights import assign_weights

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLModel

_POSITIONS = ("rotary_pos_emb", "rotary_emb")


def load_text_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype, int8: bool = False) -> Qwen2_5_VLModel:
    """The model of a folder in transformers' layout, ready for `encode`.

    :param folder: has config.json and the weights as one or several safetensors, in the names of transformers 4 or 5.
    :param int8: whether the weights of its layers, of text and of images, take a byte each.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    config = Qwen2_5_VLConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):  # no memory, and no random numbers for weights that are replaced at once
        model = Qwen2_5_VLModel(config)
    if int8:
        use_int8(model, ["language_model.layers", "visual.blocks"])
    try:
        assign_weights(model, folder, device=device, dtype=dtype, rename=_renamed)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:2])
        raise RuntimeError(f"the weights are those of another text encoder: {reason[:200]}") from None
    for name, module in list(model.named_modules()):  # positions, which are no weights
        if name.rpartition(".")[2] in _POSITIONS:
            model.set_submodule(name, type(module)(_made_of(module)).to(device))
    return model


def _made_of(positions: Any) -> Any:
    """The argument that a module of positions was made with; for images a number in older versions of transformers."""
    return getattr(positions, "config", None) or positions.dim


def _renamed(name: str) -> str | None:
    """A weight's name in `Qwen2_5_VLModel`; None of the head, which is left out.

    transformers 4 wrote "visual" and "model.layers", later versions "model.visual" and "model.language_model.layers".
    """
    if name.startswith("lm_head."):
        return None
    own = name.removeprefix("model.")
    return own if own.startswith(("visual.", "language_model.")) else f"language_model.{own}"


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
