"""`python -m exporters qwen-edit`."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.settings import Settings as QwenEditSettings
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.checkpoints.origin import Origin, origin
from exporters.defaults import is_other_checkpoint, precision_of
from exporters.export import ModelExport, pipeline_task
from exporters.files import CACHE, ROOT
from exporters.manifest import Precision
from exporters.options import cache_option, force_option, label_option, output_option, precision_option
from exporters.qwen_edit import export, pipeline, weights
from exporters.tasks import ExportTask, run_tasks

DEMO = ROOT / "checkpoints" / "demo-qwen-edit"
KIND = "Qwen-Image-Edit"
CLASSES = tuple(weights.PIPELINES)
PATTERNS = (INDEX, GENERATION, "transformer/*", "vae/*", "text_encoder/*", "tokenizer/*", "processor/*", "scheduler/*")
"""The files of a checkpoint that an export reads."""


@click.command(
    epilog="""\b
Examples:
  python -m exporters qwen-edit                                        the demo checkpoint
  python -m exporters qwen-edit --checkpoint Qwen/Qwen-Image-Edit-2509
  python -m exporters qwen-edit --checkpoint /data/mine --output /srv/models
  python -m exporters qwen-edit --checkpoint Qwen/Qwen-Image-Edit --as single    beside the one that is there"""
)
@click.option(
    "--checkpoint",
    default=str(DEMO),
    show_default="checkpoints/demo-qwen-edit",
    help="A folder in the diffusers layout, or a hub id.",
)
@label_option
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
def qwen_edit(checkpoint: str, label: str, precision: Precision | None, output: Path, cache: Path, force: bool) -> None:
    """Export a Qwen-Image-Edit checkpoint: the VAE to ONNX in --precision, the other weights as they are.

    The VAE is compared with its original before it is installed, the weights with their config.json; what is up to
    date is left alone. Models that the repository did not have get their config.pbtxt.
    """
    source = origin(checkpoint, Path.cwd(), cache, PATTERNS)
    run_tasks(family_tasks(source, output, precision=precision, label=label), force=force)


COMMANDS = (qwen_edit,)


def prepare(settings: Settings, repository: Path) -> None:
    """QWEN_EDIT_CHECKPOINT names what edits, QWEN_EDIT_FP16 chooses the precision of its VAE on GPUs."""
    wanted = QwenEditSettings.of(settings)
    noted = manifest.read(repository / networks.PIPELINE.name / "1")
    if ROOT / wanted.checkpoint == DEMO and (
        not DEMO.is_dir() or (noted is not None and is_other_checkpoint(noted.source, DEMO))
    ):
        return
    source = origin(wanted.checkpoint, ROOT, CACHE, PATTERNS)
    run_tasks(family_tasks(source, repository, precision=precision_of(settings, wanted.fp16)), quiet=True)


def family_tasks(
    source: Origin, repository: Path, *, precision: Precision | None = None, label: str = ""
) -> list[ExportTask]:
    """The exports of everything of a checkpoint, the pipeline last."""

    def wanted(spec: ModelSpec, precision: Precision | None = None) -> ModelExport:
        return ModelExport(spec=spec.labelled(label), repository=repository, checkpoint=source, precision=precision)

    whole = wanted(networks.PIPELINE)
    return [
        *(export.vae_task(wanted(spec, precision)) for spec in (networks.VAE_ENCODER, networks.VAE_DECODER)),
        *(export.torch_task(wanted(spec)) for spec in (networks.TEXT_ENCODER, networks.TRANSFORMER)),
        pipeline_task(
            whole,
            stages=pipeline.STAGES,
            exporter=pipeline.current_hash,
            export=lambda stage: pipeline.export(whole, stage),
        ),
    ]
