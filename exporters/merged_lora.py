"""A LoRA file that becomes part of a torch network: checked against its weights, and written beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from darkroom.diffusion.lora import read
from darkroom.diffusion.lora.metadata import summary
from darkroom.diffusion.lora.pack import LoraPack, Target, Targets
from darkroom.errors import DarkroomError
from exporters.checkpoints.origin import Origin
from exporters.errors import ExportError
from exporters.manifest import SourceCheckpoint

Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors, by their names."""
ROLE = "lora"
"""What manifests call the file among the sources of an export."""
_COMPONENT = "transformer"
_ANY_RANK = 1 << 20
_WEIGHT = ".weight"
_FEW_STEPS = re.compile(r"lightning|turbo|distill", re.IGNORECASE)
_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA file that an export is given.

    :param steps: the steps that it was distilled for; None of one that leaves the number of steps as it is.
    """

    origin: Origin
    steps: int | None

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.origin.name)

    @property
    def title(self) -> str:
        """Its name without the suffix."""
        return self.path.stem

    def source(self) -> SourceCheckpoint:
        """The state of the file."""
        return self.origin.source((self.path.name,))

    @property
    def label(self) -> str:
        """The label of a checkpoint with this LoRA where none is given."""
        return "lora" if self.steps is None else f"lightning-{self.steps}"


def lora_file(text: str, base: Path, steps: int | None) -> LoraFile:
    """The file that a user names.

    :param text: its path, relative to `base`.
    :param steps: those that the user says; None: what the file's name or its title say.
    :raises ExportError: it is not there or no safetensors file, or it says that it needs few steps and not how many.
    """
    origin = Origin.of(text, base, _no_hub, unpack=lambda path: path.parent)
    path = Path(origin.name)
    if not origin.local or not path.is_file():
        raise ExportError(f"The LoRA file {text} is not there.")
    if path.suffix != ".safetensors":
        raise ExportError(f"The LoRA {path.name} has to be a .safetensors file.")
    said = f"{path.stem} {_title(path)}"
    number = _STEPS.search(said)
    if steps is None and number is not None:
        steps = int(number[1])
    if steps is None and _FEW_STEPS.search(said):
        raise ExportError(f"{path.name} is for few steps and does not say how many; add --steps 4 or --steps 8.")
    return LoraFile(origin=origin, steps=steps)


def _no_hub(name: str) -> Path:
    raise ExportError(f"The LoRA file {name} is not there.")


def _title(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return summary(file.metadata() or {}).title
    except (OSError, SafetensorError) as error:
        raise ExportError(f"The LoRA file {path} cannot be read: {error}.") from None


def stage_lora(lora: LoraFile, shapes: Shapes, base: str, folder: Path) -> Path:
    """Check a LoRA file against the weights of a network, and write its matrices into `folder`.

    What of it does not act is said on stderr.

    :param shapes: of the network's weights, by their names.
    :param base: what messages call the checkpoint.
    :raises ExportError: it is damaged, or for another network.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from darkroom.diffusion.merged_lora import DOWN, LORA_NAME, UP  # torch: what is up to date needs none

    pack = _read(lora.path, shapes, base)
    for warning in pack.warnings:
        click.echo(f"{lora.path.name}: {warning}", err=True)
    tensors = {}
    for module, layer in pack.layers[_COMPONENT].items():
        tensors[module + DOWN] = np.ascontiguousarray(layer.down)
        tensors[module + UP] = np.ascontiguousarray(layer.up)
    path = folder / LORA_NAME
    save_file(tensors, path, metadata={"sha256": pack.digest})
    return path


def _read(path: Path, shapes: Shapes, base: str) -> LoraPack:
    try:
        return read.read(path.read_bytes(), _targets(shapes, base), max_rank=_ANY_RANK)
    except DarkroomError as error:
        raise ExportError(f"{path.name}: {error.message}") from None


def _targets(shapes: Shapes, base: str) -> Targets:
    """The linear modules of a network."""
    modules = [
        Target(name=name.removesuffix(_WEIGHT), in_features=shape[1], out_features=shape[0])
        for name, shape in shapes.items()
        if name.endswith(_WEIGHT) and len(shape) == 2
    ]
    return Targets(base=base, components={_COMPONENT: modules})
