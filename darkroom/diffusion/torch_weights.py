"""Weights of torch networks from safetensors, streamed to the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from darkroom.diffusion.merged_lora import LORA_NAME, MergedLora

WEIGHTS_PATTERN = "*.safetensors"


def assign_weights(model: nn.Module, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
    """Give a model on torch's meta device its weights, and make it ready for inference.

    Weights go to the device one by one: memory never holds a second copy of the model. A LoRA beside them is added
    on the way, in float32.

    :param folder: has the weights as one or several safetensors, in the names of the model.
    :raises OSError: there are no weights.
    :raises RuntimeError: they are those of another model.
    """
    weights: dict[str, Tensor] = {}
    with MergedLora(folder, device) as lora:
        for name, tensor in _tensors(folder, device):
            weights[name] = lora.merged(name, tensor).to(dtype)
        lora.check()
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval().requires_grad_(False)


def _tensors(folder: Path, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """:raises OSError: there are none."""
    files = sorted(path for path in folder.glob(WEIGHTS_PATTERN) if path.name != LORA_NAME)
    if not files:
        raise FileNotFoundError(f"no weights ({WEIGHTS_PATTERN}) beside config.json")
    for path in files:
        with safe_open(path, "pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118  # it is no dictionary
                yield name, file.get_tensor(name)
