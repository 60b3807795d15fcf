"""Identifies a checkpoint before anything is exported: by its class, or by the names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporters.checkpoints.components import INDEX
from exporters.checkpoints.files import read_json
from exporters.checkpoints.origin import SINGLE, Origin
from exporters.checkpoints.single_file.header import read_header
from exporters.errors import ExportError

PATTERNS = (INDEX,)
"""The files of a hub repository that are needed to identify it."""
_LOOKS = {
    "conditioner.embedders.0.model.": "a refiner of Stable Diffusion XL",
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.transformer.": "Stable Diffusion 1.5",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "lora_": "a LoRA",
    "unet.": "a LoRA",
    "control_model.": "a ControlNet",
    "down_blocks.": "a UNet in the diffusers layout, without text encoder and VAE",
    "text_model.": "a text encoder alone",
    "encoder.": "a VAE alone",
}
"""What a file is that begins a name so."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The facts of a checkpoint from which its family is found.

    :param title: its name, for messages.
    :param index: model_index.json; empty for a single file.
    :param names: the names of the weights in a single file; empty for a folder.
    """

    title: str
    index: Mapping[str, Any] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    @property
    def class_name(self) -> str | None:
        """The class of a folder's pipeline; None for a single file, or if the folder names no class."""
        name = self.index.get("_class_name")
        return name if isinstance(name, str) else None

    @property
    def described(self) -> str:
        """Its class, or what a file of such weights looks like."""
        if self.names:
            return looks_like(self.names) or "a single file"
        return self.class_name or "no class"


def read_contents(origin: Origin) -> Contents:
    """Look at a folder's model_index.json, or at the names in a single file.

    :param origin: for a hub id it fetches PATTERNS.
    :raises ExportError: there is no such checkpoint, or it cannot be read.
    """
    path = Path(origin.name)
    if origin.local and path.is_file():
        return Contents(title=origin.title, names=read_header(path).names)
    if origin.local and path.suffix in SINGLE and not path.exists():
        raise ExportError(f"The checkpoint {path} is not there.")
    root = origin.root
    if not (root / INDEX).is_file() and (root / "config.json").is_file():  # one network alone, as ControlNets are
        return Contents(title=origin.title, index=read_json(root, "config.json"))
    return Contents(title=origin.title, index=read_json(root, INDEX))


def looks_like(names: frozenset[str]) -> str | None:
    """The kind of a file by the names of its weights; None if it is unknown."""
    return next((kind for start, kind in _LOOKS.items() if any(name.startswith(start) for name in names)), None)
