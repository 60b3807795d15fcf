"""`python -m exporters sd15` and `sd15-controlnet`."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.diffusion.control_settings import controlnet_of
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.contents import Contents
from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.checkpoints.origin import Origin
from exporters.checkpoints.single_file.unpack import Choices, single_file_origin
from exporters.controls import ControlUnets, controlnet_command
from exporters.defaults import is_other_checkpoint, precision_of
from exporters.export import ModelExport, pipeline_task
from exporters.files import CACHE, ROOT
from exporters.manifest import Precision
from exporters.options import (
    cache_option,
    config_option,
    force_option,
    label_option,
    output_option,
    precision_option,
    prediction_option,
)
from exporters.sd15 import export, pipeline, safety_checker, single_file
from exporters.sd15.single_file import DEMO
from exporters.tasks import ExportTask, run_tasks

DEMO_CANNY = ROOT / "checkpoints" / "demo-sd15-canny"
KIND = "Stable Diffusion 1.5"
CLASSES = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline")
_NETWORKS = (networks.TEXT_ENCODER, networks.VAE_ENCODER, networks.VAE_DECODER, networks.UNET)

PATTERNS = (INDEX, GENERATION, "unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*",
            *safety_checker.PATTERNS)  # fmt: skip
"""The files of a checkpoint that an export reads."""


@click.command(
    epilog="""\b
Examples:
  python -m exporters sd15                                                   the demo checkpoint
  python -m exporters sd15 --checkpoint /data/my-sd15 --precision fp16
  python -m exporters sd15 --checkpoint stable-diffusion-v1-5/stable-diffusion-v1-5
  python -m exporters sd15 --checkpoint /data/webui/models/Stable-diffusion/photos.safetensors
  python -m exporters sd15 --checkpoint /data/photos --as photos             beside the one that is there
  python -m exporters sd15 --output /srv/models                              into another repository"""
)
@click.option(
    "--checkpoint",
    default=str(DEMO),
    show_default="checkpoints/demo-sd15",
    help="A folder in the diffusers layout, a single .safetensors file as web UIs use them, or a hub id.",
)
@config_option
@prediction_option
@label_option
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
def sd15(
    checkpoint: str,
    config: str | None,
    prediction: str | None,
    label: str,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export a checkpoint of the Stable Diffusion 1.5 kind to ONNX.

    Text encoder, VAE and UNet, its safety checker if it has one, and what the pipeline has to know of them. Every
    network is compared with diffusers before it is installed; what is up to date is left alone. UNets with a ControlNet
    that are in the repository are exported again for this checkpoint, or removed where that cannot be done.
    """
    base = origin(checkpoint, Path.cwd(), cache, Choices(config=config, prediction=prediction))
    _export_base(base, output, precision, label, force=force)
    CONTROLS.export(base, output, precision, cache, label=label)


CONTROLS = ControlUnets(unet=networks.UNET, specs=networks.CONTROL_UNETS, task_of=export.task_of)


def origin(text: str, base: Path, cache: Path, choices: Choices | None = None) -> Origin:
    """A checkpoint by what a user calls it: a folder or a single file, relative to `base`, or a hub id.

    :param choices: for a single file.
    """
    return single_file_origin(text, base, cache, PATTERNS, single_file.KIND, choices)


sd15_controlnet = controlnet_command(
    CONTROLS,
    sd15,
    examples="""\
  python -m exporters sd15-controlnet                                        the demo's, for edges
  python -m exporters sd15-controlnet --control canny --controlnet lllyasviel/sd-controlnet-canny
  python -m exporters sd15-controlnet --as photos --controlnet lllyasviel/sd-controlnet-canny""",
    origin=origin,
    checkpoint=DEMO,
    controlnet=DEMO_CANNY,
)
COMMANDS = (sd15, sd15_controlnet)


def recognises(contents: Contents) -> bool:
    """Whether a folder's pipeline is of this family, or a single file."""
    return contents.class_name in CLASSES or single_file.KIND.recognises(contents.names)


def prepare(settings: Settings, repository: Path) -> None:
    """SD15_CHECKPOINT and SD15_CONTROLNETS name what makes images, SD15_FP16 chooses the precision on GPUs."""
    wanted = Sd15Settings.of(settings)
    checkpoint = origin(wanted.checkpoint, ROOT, CACHE)
    if ROOT / wanted.checkpoint == DEMO:
        noted = CONTROLS.base_of(repository)
        if noted is not None and is_other_checkpoint(noted.name, DEMO):
            return
        if not checkpoint.local:
            click.echo(f"Text to image is left out: {wanted.checkpoint} is not there.")
            return
    precision = precision_of(settings, wanted.fp16)
    _export_base(checkpoint, repository, precision, quiet=True)
    CONTROLS.export(checkpoint, repository, precision, CACHE, named=controlnet_of(wanted.controlnets), quiet=True)


def _export_base(
    base: Origin,
    repository: Path,
    precision: Precision | None,
    label: str = "",
    *,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Everything of a checkpoint but UNets with a ControlNet."""
    unet = repository / networks.UNET.labelled(label).name / "1"
    before = manifest.read(unet)
    run_tasks(base_tasks(base, repository, precision, label), force=force, quiet=quiet)
    renewed = force or manifest.read(unet) != before
    safety_checker.export(base, repository, label, renewed=renewed, force=force, quiet=quiet)


def base_tasks(base: Origin, repository: Path, precision: Precision | None, label: str = "") -> list[ExportTask]:
    """The networks that every checkpoint has, and the pipeline. The UNet comes last of the networks."""
    specs = [spec.labelled(label) for spec in _NETWORKS]
    wanted = [ModelExport(spec=spec, repository=repository, checkpoint=base, precision=precision) for spec in specs]
    loop = ModelExport(spec=networks.PIPELINE.labelled(label), repository=repository, checkpoint=base)
    last = pipeline_task(
        loop,
        stages=pipeline.STAGES,
        exporter=pipeline.current_hash,
        export=lambda stage: pipeline.export(loop, stage),
        also=(networks.LORAS.labelled(label),),
    )
    return [*map(export.task_of, wanted), last]
