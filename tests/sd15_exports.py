"""Exports of tiny SD 1.5 checkpoints, and diffusers' pipelines of the same files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from diffusers import ControlNetModel, StableDiffusionPipeline
from numpy.typing import NDArray

from darkroom.serving.networks import OrtNetwork
from exporters import onnx_export
from exporters.cli import main
from exporters.errors import ExportError
from exporters.manifest import Precision

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sd15Export:
    """A repository with everything of one checkpoint, and diffusers' pipeline of the same files in fp32."""

    repository: Path
    checkpoint: Path
    precision: Precision
    output: str
    pipeline: StableDiffusionPipeline
    controlnet: ControlNetModel

    def network(self, spec: Any) -> OrtNetwork:
        """A network of the repository."""
        return OrtNetwork(self.repository / spec.name / "1" / "model.onnx", threads=2)


def export(*arguments: str | Path) -> Result:
    """Run `python -m exporters` in this process.

    :raises ExportError: as the command does before it is shown as a sentence.
    """
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if isinstance(result.exception, ExportError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def read_back(folder: Path, controlnet: Path) -> tuple[StableDiffusionPipeline, ControlNetModel]:
    """The pipeline, without its safety checker, and the ControlNet of these folders in fp32."""
    with onnx_export.quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            safety_checker=None,
            requires_safety_checker=False,
        )
        return pipeline, ControlNetModel.from_pretrained(controlnet, low_cpu_mem_usage=False)


def noise(*shape: int, seed: int = 0) -> Floats:
    """Values of the standard normal distribution."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Values of the uniform distribution over all levels."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
