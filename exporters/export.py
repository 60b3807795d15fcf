"""One model of a checkpoint from its files to the repository: a network from weights to a checked model.onnx."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.serving.lora_layout import FILE_NAME as LAYOUT_NAME
from darkroom.serving.lora_layout import GRAPH_NAME
from darkroom.serving.networks import ModelSpec
from exporters import lora, manifest, onnx_export, plan
from exporters.checkpoints.components import Component, digest
from exporters.checkpoints.origin import Origin
from exporters.errors import ExportError
from exporters.lora_cases import lora_cases
from exporters.manifest import Manifest, Precision, SourceCheckpoint
from exporters.onnx_export import Difference
from exporters.plan import NetworkPlan
from exporters.tasks import ExportTask, Stage

NETWORK_STAGES = ("read weights", "run diffusers", "export", "compare", "install")
_STAGING = ".export-"
_FILES = (onnx_export.MODEL_NAME, onnx_export.DATA_NAME, GRAPH_NAME, LAYOUT_NAME)
"""What the export of a network may consist of."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The maximum difference between an export and diffusers in fp32.

    :param relative: for numbers: the maximum difference as a share of the largest value.
    :param levels: for images: the maximum difference in levels of 255.
    """

    relative: float
    levels: float


# fp32: the sums are the same in another order; seen 2e-6. A pixel near a half may round to either side.
# fp16: weights and the result of every operator are rounded to 11 bits (5e-4); seen 1e-3, and 1 level with trained
# weights, 3 with random ones whose images are all contrast.
TOLERANCE: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(relative=1e-4, levels=1),
    "fp16": Tolerance(relative=5e-3, levels=4),
}


@dataclass(frozen=True, kw_only=True)
class ModelExport:
    """Which model of which checkpoint goes into which repository.

    :param repository: the model repository that gets the export.
    :param checkpoint: what the model is made of.
    :param beside: further checkpoints that it is made of, by their role: a ControlNet, a text encoder's own.
    :param precision: None keeps that of the installed export, fp32 for a new one.
    """

    spec: ModelSpec
    repository: Path
    checkpoint: Origin
    beside: Mapping[str, Origin] = field(default_factory=dict)
    precision: Precision | None = None

    @property
    def folder(self) -> Path:
        """The version folder that Triton reads."""
        return self.repository / self.spec.name / "1"

    @property
    def origins(self) -> dict[str, Origin]:
        """All of its checkpoints by their role."""
        return {"checkpoint": self.checkpoint, **self.beside}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a family makes one of its networks.

    :param exporter: the hash of everything that shapes the graph.
    :param components: the checked components, by part.
    :param sources: the files that they are read from, by the checkpoint's role in the export.
    :param load: a component's network in fp32.
    """

    plan: NetworkPlan
    exporter: str
    components: Mapping[str, Component]
    sources: Mapping[str, SourceCheckpoint]
    load: Callable[[str, Component], Any]


def up_to_date(wanted: ModelExport, exporter: str) -> Manifest | None:
    """The manifest of the installed export when there is nothing to do, else None. Imports no torch.

    :param exporter: the hash that it must have been exported with.
    """
    installed = manifest.read(wanted.folder)
    if installed is None or wanted.precision not in (None, installed.precision) or installed.exporter != exporter:
        return None
    origins = wanted.origins
    if set(installed.sources) != set(origins):
        return None
    same = all(origin.still(installed.sources[role]) for role, origin in origins.items())
    return installed if same else None


def model_task(
    wanted: ModelExport,
    *,
    stages: tuple[str, ...],
    exporter: Callable[[], str],
    export: Callable[[Stage], Manifest],
    difference: Callable[[Manifest], str],
    like: ModelSpec | None = None,
) -> ExportTask:
    """Make the task that exports any model.

    :param exporter: the hash of everything that shapes its files.
    :param like: see `ExportTask`.
    """
    return ExportTask(
        spec=wanted.spec,
        repository=wanted.repository,
        stages=stages,
        up_to_date=lambda: up_to_date(wanted, exporter()),
        export=export,
        difference=difference,
        like=like,
    )


def network_task(
    wanted: ModelExport,
    *,
    exporter: Callable[[], str],
    recipe: Callable[[], Recipe],
    like: ModelSpec | None = None,
) -> ExportTask:
    """Make the task that exports an ONNX network.

    :param recipe: reads and checks the checkpoint's files.
    """

    def export(stage: Stage) -> Manifest:
        stage("read weights")
        return export_network(wanted, recipe(), stage)

    return model_task(
        wanted,
        stages=NETWORK_STAGES,
        exporter=exporter,
        export=export,
        difference=lambda result: parity(wanted.spec, result),
        like=like,
    )


def pipeline_task(
    wanted: ModelExport,
    *,
    stages: tuple[str, ...],
    exporter: Callable[[], str],
    export: Callable[[Stage], Manifest],
    also: Sequence[ModelSpec] = (),
) -> ExportTask:
    """Make the task that exports the facts of a checkpoint for its pipeline.

    :param also: see `ExportTask`.
    """
    task = model_task(
        wanted,
        stages=stages,
        exporter=exporter,
        export=export,
        difference=lambda result: f"colours of previews are off by {result.max_error:.1%} (root mean square)",
    )
    return replace(task, also=tuple(also))


def export_network(wanted: ModelExport, recipe: Recipe, stage: Stage) -> Manifest:
    """Export, compare with the original, install. `stage` is called with each of NETWORK_STAGES as it begins.

    At most one copy of the weights lies in memory beside what ONNX Runtime or the exporter make of it.

    :raises ExportError: the weights are damaged, or the export differs; what was installed stays.
    """
    stage("read weights")
    parts = {part: recipe.load(part, component) for part, component in recipe.components.items()}
    installed = manifest.read(wanted.folder)
    precision: Precision = wanted.precision or (installed.precision if installed else "fp32")
    stage("run diffusers")
    half = precision == "fp16"
    cases, with_loras = plan.originals(recipe.plan, parts), lora_cases(recipe.plan, parts, half)
    with staging(wanted) as staged:
        stage("export")
        model, points = plan.export(recipe.plan, parts, half=half)
        files = onnx_export.save(model, staged)
        files += lora.save(model, points, staged) if points else []
        parts.clear()
        del model, points
        stage("compare")
        differences = onnx_export.compare(staged / onnx_export.MODEL_NAME, cases)
        require_parity(recipe.plan, precision, differences)
        if with_loras:
            require_parity(recipe.plan, precision, onnx_export.compare(staged / GRAPH_NAME, with_loras))
        stage("install")
        for name in set(_FILES) - {file.name for file in files}:
            (wanted.folder / name).unlink(missing_ok=True)
        return install(
            wanted,
            {file.name: file for file in files},
            exporter=recipe.exporter,
            sources=recipe.sources,
            precision=precision,
            max_error=max(_measure(wanted.spec, name, difference)[0] for name, difference in differences.items()),
            error_share=onnx_export.joined(list(differences.values())).share,
        )


def install(
    wanted: ModelExport,
    contents: Mapping[str, bytes | Path],
    *,
    exporter: str,
    sources: Mapping[str, SourceCheckpoint],
    precision: Precision = "fp32",
    max_error: float = 0.0,
    error_share: float = 0.0,
) -> Manifest:
    """Put the files of an export in place, with their manifest."""
    import torch

    return manifest.install(
        wanted.folder,
        contents,
        exporter=exporter,
        precision=precision,
        source=wanted.checkpoint.name,
        weights_sha256=digest(*sources.values()),
        opset=onnx_export.OPSET,
        max_error=max_error,
        error_share=error_share,
        torch=torch.__version__,
        sources=sources,
    )


@contextmanager
def staging(wanted: ModelExport) -> Iterator[Path]:
    """A folder beside the version folder, which Triton does not read; leftovers of a killed export go."""
    parent = wanted.folder.parent
    existed = parent.is_dir()
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=_STAGING) as name:
            yield Path(name)
    except BaseException:
        if not existed:  # an empty folder is a model that Triton cannot load
            shutil.rmtree(parent, ignore_errors=True)
        raise


def parity(spec: ModelSpec, result: Manifest) -> str:
    """Describe the difference between an export and its original."""
    if any(tensor.dtype == "UINT8" for tensor in spec.outputs):
        share = f"in {result.error_share:.2%} of the values"
        return f"differs from diffusers by at most {result.max_error:g} of 255 levels, {share}"
    return f"differs from diffusers by at most {result.max_error:.1e} of the largest value"


def is_image(spec: ModelSpec, output: str) -> bool:
    """Whether an output holds 8-bit pixels."""
    return next(tensor for tensor in spec.outputs if tensor.name == output).dtype == "UINT8"


def _measure(spec: ModelSpec, output: str, difference: Difference) -> tuple[float, str]:
    """The difference as a number, and with its unit."""
    if is_image(spec, output):
        return difference.maximum, f"{difference.maximum:g} levels of 255"
    return difference.relative, f"{difference.relative:.2g} of the largest value"


def require_parity(wanted: NetworkPlan, precision: Precision, differences: Mapping[str, Difference]) -> None:
    """:raises ExportError: a difference is over its TOLERANCE."""
    allowed = TOLERANCE[precision]
    for output, difference in differences.items():
        limit = allowed.levels if is_image(wanted.spec, output) else allowed.relative
        found, words = _measure(wanted.spec, output, difference)
        if not np.isfinite(found) or found > limit:
            raise ExportError(
                f"{wanted.spec.name}: {output} of the {precision} export differs from diffusers by {words}, "
                f"allowed are {limit:g}; it was not installed."
            )
