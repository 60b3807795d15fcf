"""One network of a checkpoint from weights to a checked model.onnx in the repository."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.serving.networks import ModelSpec, Tensors
from exporters import manifest, onnx_export
from exporters.errors import ExportError
from exporters.manifest import Manifest, Precision, Source
from exporters.onnx_export import Difference
from exporters.sd15 import plans, weights
from exporters.sd15.origin import Origin
from exporters.sd15.plans import Parts, Plan
from exporters.sd15.weights import Component

STAGES = ("read weights", "run diffusers", "export", "compare", "install")
_SOURCES = ("graphs.py", "attention.py", "plans.py")
_STAGING = ".export-"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far an export may be from diffusers in fp32.

    :param relative: of numbers: the largest difference as a share of the largest value.
    :param levels: of pictures: the largest difference in levels of 255.
    """

    relative: float
    levels: float


# fp32: the sums are the same in another order; seen 2e-6. A pixel near a half may round to either side.
# fp16: weights and the result of every operator are rounded to 11 bits (5e-4); seen 1e-3, and 1 level with trained
# weights, 3 with random ones whose pictures are all contrast.
TOLERANCE: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(relative=1e-4, levels=1),
    "fp16": Tolerance(relative=5e-3, levels=4),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to export.

    :param repository: the model repository that gets the export.
    :param controlnet: for a UNet with a ControlNet.
    :param precision: None keeps that of the installed export, fp32 for a new one.
    """

    spec: ModelSpec
    repository: Path
    checkpoint: Origin
    controlnet: Origin | None = None
    precision: Precision | None = None

    @property
    def folder(self) -> Path:
        """The version folder that Triton reads."""
        return self.repository / self.spec.name / "1"


def current_hash() -> str:
    """The hash of everything that shapes the graphs."""
    here = Path(__file__).parent
    return manifest.exporter_hash([*(here / name for name in _SOURCES), Path(onnx_export.__file__)])


def up_to_date(job: Job, exporter: str) -> Manifest | None:
    """The manifest of the installed export when there is nothing to do, else None. Imports no torch.

    :param exporter: the hash that it must have been exported with.
    """
    return made_of(job, exporter, {"controlnet": job.controlnet} if job.controlnet else {})


def made_of(job: Job, exporter: str, more: Mapping[str, Origin]) -> Manifest | None:
    """As `up_to_date`.

    :param more: the checkpoints beside `job.checkpoint`, by their part in the export.
    """
    installed = manifest.read(job.folder)
    if installed is None or job.precision not in (None, installed.precision) or installed.exporter != exporter:
        return None
    origins = {"checkpoint": job.checkpoint, **more}
    if set(installed.sources) != set(origins):
        return None
    same = all(origin.still(installed.sources[role]) for role, origin in origins.items())
    return installed if same else None


def read_components(job: Job, parts: tuple[str, ...]) -> dict[str, Component]:
    """The checked components of a job, by part.

    :raises ExportError: a checkpoint is missing, incomplete or of another kind.
    """
    checkpoint = weights.read_checkpoint(job.checkpoint.root)
    components = {part: checkpoint.component(part) for part in parts if part != "controlnet"}
    if "controlnet" in parts:
        assert job.controlnet is not None
        components["controlnet"] = weights.read_controlnet(job.controlnet.root, checkpoint.unet)
    return components


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a family makes one of its networks.

    :param exporter: the hash of everything that shapes the graph.
    :param components: the checked components, by part.
    :param sources: the files that they are read from, by the checkpoint's part in the export.
    :param load: a component's network in fp32.
    :param originals: inputs, with the original's own answers.
    :param convert: the ONNX model of the loaded networks; True for fp16.
    """

    plan: Plan
    exporter: str
    components: Mapping[str, Component]
    sources: Mapping[str, Source]
    load: Callable[[str, Component], Any]
    originals: Callable[[Parts], list[tuple[Tensors, Tensors]]]
    convert: Callable[[Parts, bool], Any]


def export(job: Job, stage: Callable[[str], None]) -> Manifest:
    """Export a network of this family, as `export_network` does.

    :raises ExportError: a checkpoint is unfit, or the export differs; what was installed stays.
    """
    stage("read weights")
    plan = plans.plan_of(job.spec)
    components = read_components(job, plan.parts)
    recipe = Recipe(
        plan=plan,
        exporter=current_hash(),
        components=components,
        sources=_sources(job, components),
        load=weights.load,
        originals=lambda parts: plans.originals(plan, parts),
        convert=lambda parts, half: plans.export(plan, parts, half=half),
    )
    return export_network(job, recipe, stage)


def export_network(job: Job, recipe: Recipe, stage: Callable[[str], None]) -> Manifest:
    """Export, compare with the original, install. `stage` is called with each of STAGES as it begins.

    At most one copy of the weights lies in memory beside what ONNX Runtime or the exporter make of it.

    :raises ExportError: the weights are damaged, or the export differs; what was installed stays.
    """
    stage("read weights")
    parts = {part: recipe.load(part, component) for part, component in recipe.components.items()}
    installed = manifest.read(job.folder)
    precision: Precision = job.precision or (installed.precision if installed else "fp32")
    stage("run diffusers")
    cases = recipe.originals(parts)
    with staging(job) as staged:
        stage("export")
        files = onnx_export.save(recipe.convert(parts, precision == "fp16"), staged)
        parts.clear()
        stage("compare")
        differences = onnx_export.compare(staged / onnx_export.MODEL_NAME, cases)
        require_parity(recipe.plan, precision, differences)
        stage("install")
        return _install(job, recipe, files, precision, differences)


def _sources(job: Job, components: Mapping[str, Component]) -> dict[str, Source]:
    base = tuple(file for part, c in components.items() if part != "controlnet" for file in c.files)
    sources = {"checkpoint": job.checkpoint.source(base)}
    if job.controlnet is not None:
        sources["controlnet"] = job.controlnet.source(components["controlnet"].files)
    return sources


def _install(
    job: Job, recipe: Recipe, files: list[Path], precision: Precision, differences: Mapping[str, Difference]
) -> Manifest:
    import torch

    for name in {onnx_export.MODEL_NAME, onnx_export.DATA_NAME} - {file.name for file in files}:
        (job.folder / name).unlink(missing_ok=True)
    return manifest.install(
        job.folder,
        {file.name: file for file in files},
        exporter=recipe.exporter,
        precision=precision,
        source=job.checkpoint.name,
        weights_sha256=weights.digest(*recipe.sources.values()),
        opset=onnx_export.OPSET,
        max_error=max(_measure(job.spec, name, difference)[0] for name, difference in differences.items()),
        error_share=onnx_export.joined(list(differences.values())).share,
        torch=torch.__version__,
        sources=recipe.sources,
    )


@contextmanager
def staging(job: Job) -> Iterator[Path]:
    """A folder beside the version folder, which Triton does not read; leftovers of a killed export go."""
    parent = job.folder.parent
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
    """What an export differs from its original by, for people."""
    if any(tensor.dtype == "UINT8" for tensor in spec.outputs):
        share = f"in {result.error_share:.2%} of the values"
        return f"differs from diffusers by at most {result.max_error:g} of 255 levels, {share}"
    return f"differs from diffusers by at most {result.max_error:.1e} of the largest value"


def is_picture(spec: ModelSpec, output: str) -> bool:
    """Whether an output holds 8-bit pixels."""
    return next(tensor for tensor in spec.outputs if tensor.name == output).dtype == "UINT8"


def _measure(spec: ModelSpec, output: str, difference: Difference) -> tuple[float, str]:
    """The difference as a number, and with its unit."""
    if is_picture(spec, output):
        return difference.maximum, f"{difference.maximum:g} levels of 255"
    return difference.relative, f"{difference.relative:.2g} of the largest value"


def require_parity(plan: Plan, precision: Precision, differences: Mapping[str, Difference]) -> None:
    """:raises ExportError: a difference is over its TOLERANCE."""
    allowed = TOLERANCE[precision]
    for output, difference in differences.items():
        limit = allowed.levels if is_picture(plan.spec, output) else allowed.relative
        found, words = _measure(plan.spec, output, difference)
        if not np.isfinite(found) or found > limit:
            raise ExportError(
                f"{plan.spec.name}: {output} of the {precision} export differs from diffusers by {words}, "
                f"allowed are {limit:g}; it was not installed."
            )
