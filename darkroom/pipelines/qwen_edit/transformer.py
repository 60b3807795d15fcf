"""The transformer in torch: its weights, and one prediction for rows of different sizes, prompts and numbers of images.

Architecture and weights are diffusers' `QwenImageTransformer2DModel` (diffusers 0.42,
models/transformers/transformer_qwenimage.py). Its own forward pass gives all rows the positions of the first one and
hides only padded text; the one here has positions and a mask for each row, and else does the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from darkroom.pipelines.qwen_edit.controlnet import load_controlnet, residuals
from darkroom.pipelines.qwen_edit.loading import load_with_rows
from darkroom.pipelines.qwen_edit.networks import CONTROL, CONTROLNET_FOLDER, TRAINED_STEPS
from darkroom.pipelines.qwen_edit.rows import Rows, tokens_from

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel, QwenImageTransformer2DModel


def load_transformer(
    folder: Path, *, device: torch.device, dtype: torch.dtype, int8: bool = False
) -> QwenImageTransformer2DModel:
    """The model of a folder in the diffusers layout, ready for `predict`.

    :param folder: has config.json and the weights as one or several safetensors.
    :param int8: whether the weights of its blocks take a byte each, modulation included, which is a third of them.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from diffusers import QwenImageTransformer2DModel

    made: QwenImageTransformer2DModel = load_with_rows(
        QwenImageTransformer2DModel, folder, device=device, dtype=dtype, int8=int8
    )
    return made


def load_with_controlnet(
    folder: Path, *, device: torch.device, dtype: torch.dtype, int8: bool = False
) -> tuple[QwenImageTransformer2DModel, QwenImageControlNetModel | None]:
    """The transformer, and the ControlNet if there is one beside its weights; as `load_transformer`."""
    place: dict[str, Any] = {"device": device, "dtype": dtype, "int8": int8}
    beside = folder / CONTROLNET_FOLDER
    return load_transformer(folder, **place), load_controlnet(beside, **place) if beside.is_dir() else None


@torch.inference_mode()
def predict(
    model: QwenImageTransformer2DModel, inputs: Mapping[str, Tensor], controlnet: QwenImageControlNetModel | None = None
) -> Tensor:
    """What the model predicts for B rows: other images, prompts and timesteps in each.

    What no row needs of the padding is cut off before anything is computed.

    :param inputs: tensors on any device, batch first:
        hidden_states (B, S, C) float, tokens of the noisy image, of the references, and padding;
        grids (B, G, 2) int, the height and the width of each image in tokens, the noisy one first; 0 for none;
        timestep (B, 1) float, 0..1000;
        encoder_hidden_states (B, T, D) float, of the prompts, and padding;
        text_tokens (B, 1) int, how many of them are no padding;
        and those of `residuals` where the ControlNet acts.
    :returns: (B, S, C) float32 on the model's device, the velocity of the noisy tokens; zeros for the others.
    :raises ValueError: a row has more tokens than its tensors, or there is no ControlNet for a control image.
    """
    weight = model.img_in.weight
    kind, device = weight.dtype, weight.device
    rows = Rows.of(inputs)
    most = max(rows.noisy)
    image = model.img_in(inputs["hidden_states"][:, : max(rows.tokens)].to(device, kind))
    text = model.txt_in(model.txt_norm(inputs["encoder_hidden_states"][:, : max(rows.texts)].to(device, kind)))
    given = inputs["timestep"].to(device).flatten() / TRAINED_STEPS
    clean = [given * 0] if model.zero_cond_t else []  # references count as images without noise
    times = model.time_text_embed(torch.cat([given, *clean]), image)
    references = tokens_from(rows.noisy, max(rows.tokens), device).int() if model.zero_cond_t else None
    rotary, mask = rows.rotary(model.pos_embed, device), rows.mask(device)
    added = _control(inputs, rows, controlnet)
    every = math.ceil(len(model.transformer_blocks) / len(added)) if added else 1
    for index, block in enumerate(model.transformer_blocks):
        text, image = block(
            hidden_states=image,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            temb=times,
            image_rotary_emb=rotary,
            modulate_index=references,
        )
        if added:
            image[:, :most] += added[index // every]
    made = model.proj_out(model.norm_out(image[:, :most], times[: len(rows.texts)])).float()
    made = made.masked_fill(tokens_from(rows.noisy, most, device)[..., None], 0.0)
    return pad(made, (0, 0, 0, inputs["hidden_states"].shape[1] - most))


def _control(inputs: Mapping[str, Tensor], rows: Rows, controlnet: QwenImageControlNetModel | None) -> list[Tensor]:
    """What the ControlNet adds behind blocks; nothing where it does not act."""
    if CONTROL not in inputs:
        return []
    if controlnet is None:
        raise ValueError(f"{CONTROL} needs a ControlNet, and there is none beside the weights")
    return residuals(controlnet, inputs, rows)
