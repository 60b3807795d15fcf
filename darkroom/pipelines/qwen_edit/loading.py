"""Loads a model of diffusers that takes rows of different sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from darkroom.diffusion.int8 import use_int8
from darkroom.diffusion.torch_weights import assign_weights
from darkroom.pipelines.qwen_edit.attention import with_rows

if TYPE_CHECKING:
    from diffusers import ModelMixin


def load_with_rows(
    kind: type[ModelMixin], folder: Path, *, device: torch.device, dtype: torch.dtype, int8: bool
) -> Any:
    """The model of a folder in the diffusers layout.

    :param kind: its class.
    :param folder: has config.json and the weights as one or several safetensors.
    :param int8: whether the weights of its blocks take a byte each, modulation included.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    with torch.device("meta"):  # no memory, and no random numbers for weights that are replaced at once
        model = kind.from_config(kind.load_config(folder))
    if int8:
        use_int8(model, ["transformer_blocks"])
    assign_weights(model, folder, device=device, dtype=dtype)
    return with_rows(model)
