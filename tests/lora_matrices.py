"""LoRAs with random matrices for a network of the repository: as the bank reads them, and as diffusers does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from darkroom.serving.lora_layout import LoraLayout
from darkroom.serving.networks import Array
from exporters.lora import random_matrices

Layers = Mapping[str, Mapping[str, "Matrices"]]


@dataclass(frozen=True)
class Matrices:
    """up @ down is added to the weights of a module."""

    down: Array
    up: Array


def make_lora(layouts: list[LoraLayout], rank: int, seed: int, strength: float = 1.0) -> Layers:
    """One that changes every module of these networks."""
    random = np.random.default_rng(seed)
    return {
        layout.component: {
            name: Matrices(down, strength * up) for name, (down, up) in random_matrices(layout, rank, random).items()
        }
        for layout in layouts
    }


def write_diffusers_file(modules: Mapping[str, Matrices], layout: LoraLayout, path: Path) -> Path:
    """A file in the layout of PEFT, as diffusers reads it: without alpha, so that matrices count as they are."""
    tensors = {}
    for name, matrices in modules.items():
        kernel = (1, 1) if layout.by_name[name].kind == "conv" else ()
        for label, matrix in (("A", matrices.down), ("B", matrices.up)):
            tensors[f"{layout.component}.{name}.lora_{label}.weight"] = matrix.reshape(*matrix.shape, *kernel)
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, path)
    return path


def merge(network: torch.nn.Module, modules: Mapping[str, Matrices], scale: float, prefix: str = "") -> None:
    """Add a LoRA to the weights.

    :param prefix: that the names in `modules` begin with and those of the network do not.
    """
    with torch.no_grad():
        for name, matrices in modules.items():
            weight = network.get_submodule(name.removeprefix(prefix)).weight
            assert isinstance(weight, torch.Tensor)
            change = scale * matrices.up @ matrices.down
            weight += torch.from_numpy(change).reshape(weight.shape)
