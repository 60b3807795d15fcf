"""How the family's ONNX networks are read from a checkpoint and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporters import manifest, plan
from exporters.checkpoints.origin import Origin
from exporters.export import ModelExport, Recipe, network_task
from exporters.hidream import plans, weights
from exporters.tasks import ExportTask

LLAMA_ROLE = "llama"
"""The role of a Llama in a checkpoint of its own, in the export of the pipeline."""
_MODULES = (
    *plan.SHARED,
    "exporters.graphs.clip",
    "exporters.graphs.vae",
    "exporters.hidream.graphs",
    "exporters.hidream.plans",
)


@dataclass(frozen=True, kw_only=True)
class CheckpointSources:
    """The checkpoints of the family.

    :param llama: None where Llama lies in the checkpoint itself.
    """

    checkpoint: Origin
    llama: Origin | None = None

    def of(self, part: str) -> Origin:
        """The checkpoint that contains a part of the pipeline."""
        return self.llama if part == weights.LLAMA and self.llama else self.checkpoint

    @property
    def beside(self) -> Mapping[str, Origin]:
        """The checkpoints beside the main one, by their role."""
        return {LLAMA_ROLE: self.llama} if self.llama else {}

    @property
    def llama_root(self) -> Path | None:
        """The folder of the separate checkpoint of Llama.

        :raises ExportError: it is not there, or cannot be fetched.
        """
        return self.llama.root if self.llama else None

    def read(self) -> weights.HidreamCheckpoint:
        """Both, checked.

        :raises ExportError: as `weights.read_checkpoint`.
        """
        return weights.read_checkpoint(self.checkpoint.root, self.llama_root)


def current_hash() -> str:
    """The hash of everything that shapes the graphs."""
    return manifest.code_hash(_MODULES)


def task_of(wanted: ModelExport, sources: CheckpointSources) -> ExportTask:
    """The export of a network.

    :param wanted: its checkpoint is the one that the network's part lies in.
    """
    return network_task(wanted, exporter=current_hash, recipe=lambda: recipe(wanted, sources))


def recipe(wanted: ModelExport, sources: CheckpointSources) -> Recipe:
    """How to make a network of what the checkpoint's files say.

    :raises ExportError: a checkpoint is missing, incomplete or of another kind.
    """
    network = plans.plan_of(wanted.spec)
    (part,) = network.parts
    component = sources.read().parts[part]
    return Recipe(
        plan=network,
        exporter=current_hash(),
        components={part: component},
        sources={"checkpoint": wanted.checkpoint.source(component.files)},
        load=weights.load,
    )
