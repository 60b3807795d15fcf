"""Weights of torch networks from safetensors, streamed to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from darkroom.diffusion.int8 import Int8Linear, rounded
from darkroom.diffusion.merged_lora import LORA_NAME, MergedLora

WEIGHTS_PATTERN = "*.safetensors"
_WEIGHT = ".weight"
Rename = Callable[[str], str | None]
"""The name in a file -> that in the model; None for what the model does not have."""


def assign_weights(
    model: nn.Module, folder: Path, *, device: torch.device, dtype: torch.dtype, rename: Rename = lambda name: name
) -> None:
    """Give a model on torch's meta device its weights, and make it ready for inference.

    Weights go to the device one by one: memory never holds a second copy of the model. A LoRA beside them is added
    on the way, in float32, and those of an `Int8Linear` are rounded.

    :param folder: has the weights as one or several safetensors.
    :raises OSError: there are no weights.
    :raises RuntimeError: they are those of another model.
    """
    int8 = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    weights: dict[str, Tensor] = {}
    with MergedLora(folder, device) as lora:
        for name, tensor in _tensors(folder, device, rename):
            weight, module = lora.merged(name, tensor), name.removesuffix(_WEIGHT)
            if module in int8 and module != name:
                weights[name], weights[f"{module}.scale"] = rounded(weight, dtype)
            else:
                weights[name] = weight.to(dtype)
        lora.check()
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval().requires_grad_(False)


def _tensors(folder: Path, device: torch.device, rename: Rename) -> Iterator[tuple[str, Tensor]]:
    """:raises OSError: there are none."""
    files = sorted(path for path in folder.glob(WEIGHTS_PATTERN) if path.name != LORA_NAME)
    if not files:
        raise FileNotFoundError(f"no weights ({WEIGHTS_PATTERN}) beside config.json")
    for path in files:
        with safe_open(path, "pt", device=str(device)) as file:
            for stored in file.keys():  # noqa: SIM118  # it is no dictionary
                name = rename(stored)
                if name is not None:
                    yield name, file.get_tensor(stored)
