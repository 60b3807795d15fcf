"""What differs between the families of checkpoints that LoRAs can be trained for: `training/lora/<family>/family.py`.

A new family is a new folder; nothing else changes. Its module has `FAMILY`, a `LoraFamily`. Modules of families are
imported without torch: what needs it imports it when it is called.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters import registry
from exporters.checkpoints import contents
from exporters.checkpoints.origin import Origin, origin
from exporters.errors import ExportError
from exporters.files import CACHE, ROOT
from training import lora

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.lora.buckets import Fit

    Encode = Callable[[str, Fit], dict[str, Tensor]]
    """A caption and the place of its image -> tensors of one sample by name, float32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class LoraFamily:
    """One family.

    :param base_version: what kohya's trainer calls the base model, for `ss_base_model_version`.
    :param architecture: as ModelSpec names it: https://github.com/Stability-AI/ModelSpec.
    :param origin: a checkpoint by its name: a folder, a single file, or a hub id.
    :param load: a network of a folder in fp32, frozen: "unet" or "vae". It raises ExportError.
    :param pipeline: diffusers' pipeline of a folder in fp32, on a device.
    :param encoder: loads the text encoders of a folder and returns what encodes a caption.
    :param arguments: the arguments of the UNet besides latents and timesteps, from the encoded samples of a batch, each
        stacked to (rows, ...).
    """

    name: str
    base_version: str
    architecture: str
    origin: Callable[[str], Origin]
    load: Callable[[Path, str], Any]
    pipeline: Callable[[Path, torch.device], Any]
    encoder: Callable[[Path, torch.device], Encode]
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]


@cache
def families() -> dict[str, LoraFamily]:
    """Every family by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(lora.__path__) if module.ispkg)
    return {name: importlib.import_module(f"{lora.__name__}.{name}.family").FAMILY for name in names}


def find_checkpoint(name: str) -> tuple[LoraFamily, Path]:
    """The family and the folder of a checkpoint.

    :param name: a folder (relative to the checkout), a single file, or a hub id, which is fetched.
    :raises ExportError: there is no such checkpoint, or its family has no LoRA training.
    """
    looked = contents.read_contents(origin(name, ROOT, CACHE, contents.PATTERNS))
    kind = registry.family_of(looked)
    if kind.name not in families():
        raise ExportError(f"{looked.title} is a checkpoint of {kind.kind}; LoRAs of it cannot be trained.")
    family = families()[kind.name]
    return family, family.origin(name).root


def stacked(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples -> a batch: tensors of equal shapes by name, each (rows, ...)."""
    import torch

    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
