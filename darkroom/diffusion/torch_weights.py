"""Weights of torch networks from safetensors, streamed to the device."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS_PATTERN = "*.safetensors"


def assign_weights(model: nn.Module, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
    """Give a model on torch's meta device its weights, and make it ready for inference.

    Weights go file by file to the device: at most one file lies in memory beside the model.

    :param folder: has the weights as one or several safetensors, in the names of the model.
    :raises OSError: there are no weights.
    :raises RuntimeError: they are those of another model.
    """
    files = sorted(folder.glob(WEIGHTS_PATTERN))
    if not files:
        raise FileNotFoundError(f"no weights ({WEIGHTS_PATTERN}) beside config.json")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= {name: tensor.to(dtype) for name, tensor in load_file(file, device=str(device)).items()}
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval().requires_grad_(False)
