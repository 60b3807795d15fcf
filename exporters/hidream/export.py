"""One ONNX network of a checkpoint from weights to a checked model.onnx in the repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporters import manifest, onnx_export
from exporters.hidream import plans, weights
from exporters.manifest import Manifest
from exporters.sd15 import export
from exporters.sd15.export import Job, Recipe
from exporters.sd15.origin import Origin

_SOURCES = ("graphs.py", "plans.py", "../sd15/graphs.py", "../sd15/attention.py")


@dataclass(frozen=True, kw_only=True)
class Parents:
    """The checkpoints of the family.

    :param llama: None where Llama lies in the checkpoint itself.
    """

    checkpoint: Origin
    llama: Origin | None

    def of(self, part: str) -> Origin:
        """The one that a part of the pipeline lies in."""
        return self.llama if part == weights.LLAMA and self.llama else self.checkpoint

    def read(self) -> weights.Checkpoint:
        """Both, checked.

        :raises ExportError: as `weights.read_checkpoint`.
        """
        return weights.read_checkpoint(self.checkpoint.root, self.llama.root if self.llama else None)


def current_hash() -> str:
    """The hash of everything that shapes the graphs."""
    here = Path(__file__).parent
    return manifest.exporter_hash([*(here / name for name in _SOURCES), Path(onnx_export.__file__)])


def export_network(job: Job, parents: Parents, stage: Callable[[str], None]) -> Manifest:
    """Export a network, compare it with its original, install it.

    :param job: its checkpoint is the one that the network's part lies in.
    :raises ExportError: a checkpoint is unfit, or the export differs; what was installed stays.
    """
    stage("read weights")
    plan = plans.plan_of(job.spec)
    (part,) = plan.parts
    component = parents.read().parts[part]
    recipe = Recipe(
        plan=plan,
        exporter=current_hash(),
        components={part: component},
        sources={"checkpoint": job.checkpoint.source(component.files)},
        load=weights.load,
        originals=lambda parts: plans.originals(plan, parts),
        convert=lambda parts, half: plans.export(plan, parts, half=half),
    )
    return export.export_network(job, recipe, stage)
