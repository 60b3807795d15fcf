"""A ControlNet of Qwen-Image beside the transformer: what it adds to the noisy tokens behind each block.

Architecture and weights are diffusers' `QwenImageControlNetModel` (diffusers 0.42,
models/controlnets/controlnet_qwenimage.py). Published ones were trained for text to image: they read the noisy tokens,
those of the control image and the text, and no references. So references get nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darkroom.pipelines.qwen_edit.loading import load_with_rows
from darkroom.pipelines.qwen_edit.networks import (
    CONTROL,
    CONTROL_SCALE,
    CONTROL_TEXT,
    CONTROL_TEXT_TOKENS,
    TRAINED_STEPS,
)
from darkroom.pipelines.qwen_edit.rows import Rows, counts, require_room, tokens_from

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel


def load_controlnet(
    folder: Path, *, device: torch.device, dtype: torch.dtype, int8: bool = False
) -> QwenImageControlNetModel:
    """The model of a folder in the diffusers layout, ready for `residuals`.

    :param int8: whether the weights of its blocks take a byte each.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from diffusers import QwenImageControlNetModel

    made: QwenImageControlNetModel = load_with_rows(
        QwenImageControlNetModel, folder, device=device, dtype=dtype, int8=int8
    )
    return made


def residuals(model: QwenImageControlNetModel, inputs: Mapping[str, Tensor], transformer_rows: Rows) -> list[Tensor]:
    """What is added to the noisy tokens behind the transformer's blocks, (B, most of them, D) each; zeros in padding.

    :param inputs: those of `predict`, and
        control_tokens (B, S, C) float, the control image at the size of the noisy one, and padding;
        control_scale (B, 1) float, a factor;
        control_hidden_states (B, T, D) float, of the prompts that steer, and padding;
        control_text_tokens (B, 1) int, how many of them are no padding.
    :raises ValueError: a row has more tokens than its tensors.
    """
    rows = Rows([row[:1] for row in transformer_rows.grids], counts(inputs[CONTROL_TEXT_TOKENS]))
    require_room(CONTROL, inputs, rows.noisy)
    require_room(CONTROL_TEXT, inputs, rows.texts)
    weight = model.img_in.weight
    kind, device, most = weight.dtype, weight.device, max(rows.noisy)
    image = model.img_in(inputs["hidden_states"][:, :most].to(device, kind))
    image = image + model.controlnet_x_embedder(inputs[CONTROL][:, :most].to(device, kind))
    text = model.txt_in(model.txt_norm(inputs[CONTROL_TEXT][:, : max(rows.texts)].to(device, kind)))
    times = model.time_text_embed(inputs["timestep"].to(device).flatten() / TRAINED_STEPS, image)
    rotary, mask = rows.rotary(model.pos_embed, device), rows.mask(device)
    scale = inputs[CONTROL_SCALE].to(device, kind)[:, :, None]
    padding = tokens_from(rows.noisy, most, device)[..., None]
    made = []
    for block, output in zip(model.transformer_blocks, model.controlnet_blocks, strict=True):
        text, image = block(
            hidden_states=image,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            temb=times,
            image_rotary_emb=rotary,
        )
        made.append((output(image) * scale).masked_fill(padding, 0.0))
    return made
