"""`python -m exporters sd15` and `sd15-controlnet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from darkroom.diffusion.controls import control_names
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.contents import Contents
from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.checkpoints.origin import Origin
from exporters.checkpoints.origin import origin as origin_of
from exporters.checkpoints.single_file.unpack import Choices, single_file_origin
from exporters.defaults import is_other_checkpoint, precision_of
from exporters.errors import ExportError
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
from exporters.repository import installed
from exporters.sd15 import controls, export, pipeline, single_file
from exporters.sd15.single_file import DEMO
from exporters.tasks import ExportTask, run_tasks

DEMO_CANNY = ROOT / "checkpoints" / "demo-sd15-canny"
KIND = "Stable Diffusion 1.5"
CLASSES = ("StableDiffusionPipeline",)
_NETWORKS = (networks.TEXT_ENCODER, networks.VAE_ENCODER, networks.VAE_DECODER, networks.UNET)

PATTERNS = (INDEX, GENERATION, "unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*")
"""The files of a checkpoint that an export reads."""
CONTROLNET_PATTERNS = ("config.json", "diffusion_pytorch_model*")

_checkpoint_help = "A folder in the diffusers layout, or a hub id."
_output_option = output_option("The model repository to write to.")
_cache_option = cache_option("Where downloads are kept.")


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
@_output_option
@_cache_option
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

    Text encoder, VAE and UNet, and what the pipeline has to know of them. Every network is compared with diffusers
    before it is installed; what is up to date is left alone. UNets with a ControlNet that are in the repository are
    exported again for this checkpoint, or removed where that cannot be done.
    """
    base = origin(checkpoint, Path.cwd(), cache, Choices(config=config, prediction=prediction))
    run_tasks(base_tasks(base, output, precision, label), force=force)
    export_controls(base, output, precision, cache, label=label)


@click.command(
    "sd15-controlnet",
    epilog="""\b
Examples:
  python -m exporters sd15-controlnet                                        the demo's, for edges
  python -m exporters sd15-controlnet --control canny --controlnet lllyasviel/sd-controlnet-canny
  python -m exporters sd15-controlnet --as photos --controlnet lllyasviel/sd-controlnet-canny""",
)
@click.option("--control", type=click.Choice(control_names()), default="canny", show_default=True)
@click.option(
    "--controlnet", default=str(DEMO_CANNY), show_default="checkpoints/demo-sd15-canny", help=_checkpoint_help
)
@click.option("--checkpoint", help=f"{_checkpoint_help} Default: the one that is in the repository.")
@label_option
@precision_option
@_output_option
@_cache_option
@force_option
def sd15_controlnet(
    control: str,
    controlnet: str,
    checkpoint: str | None,
    label: str,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export the UNet with a ControlNet in one graph.

    The ControlNet has to suit the UNet of the checkpoint, which has to be the one that is in the repository.
    """
    noted = controls.base_of(output, label)
    base = origin(checkpoint or (noted.name if noted else str(DEMO)), Path.cwd(), cache)
    if noted is not None and not base.still(noted):
        raise ExportError(
            f"{networks.UNET.labelled(label).name} in {output} is of another checkpoint, {noted.name}; run first: "
            f"python -m exporters sd15 --checkpoint {base.name}{f' --as {label}' if label else ''}"
        )
    steering = origin_of(controlnet, Path.cwd(), cache, CONTROLNET_PATTERNS)
    spec = controls.control_unets(label)[control]
    run_tasks([control_task(spec, output, base, steering, precision)], force=force)


COMMANDS = (sd15, sd15_controlnet)


def recognises(contents: Contents) -> bool:
    """Whether a folder's pipeline is of this family, or a single file."""
    return contents.class_name in CLASSES or single_file.KIND.recognises(contents.names)


def prepare(settings: Settings, repository: Path) -> None:
    """SD15_CHECKPOINT and SD15_CONTROLNETS name what makes images, SD15_FP16 chooses the precision on GPUs."""
    wanted = Sd15Settings.of(settings)
    checkpoint = origin(wanted.checkpoint, ROOT, CACHE)
    if ROOT / wanted.checkpoint == DEMO:
        noted = controls.base_of(repository)
        if noted is not None and is_other_checkpoint(noted.name, DEMO):
            return
        if not checkpoint.local:
            click.echo(f"Text to image is left out: {wanted.checkpoint} is not there.")
            return
    precision = precision_of(settings, wanted.fp16)
    run_tasks(base_tasks(checkpoint, repository, precision), quiet=True)
    export_controls(checkpoint, repository, precision, CACHE, named=wanted.controlnet_of, quiet=True)


def origin(text: str, base: Path, cache: Path, choices: Choices | None = None) -> Origin:
    """A checkpoint by what a user calls it: a folder or a single file, relative to `base`, or a hub id.

    :param choices: for a single file.
    """
    return single_file_origin(text, base, cache, PATTERNS, single_file.KIND, choices)


def base_tasks(base: Origin, repository: Path, precision: Precision | None, label: str = "") -> list[ExportTask]:
    """Everything of a checkpoint but UNets with a ControlNet. The UNet comes last of the networks."""
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


def control_task(
    spec: ModelSpec, repository: Path, base: Origin, controlnet: Origin, precision: Precision | None
) -> ExportTask:
    """The export of a UNet with a ControlNet."""
    beside = {export.CONTROLNET: controlnet}
    return export.task_of(
        ModelExport(spec=spec, repository=repository, checkpoint=base, beside=beside, precision=precision)
    )


def export_controls(
    base: Origin,
    repository: Path,
    precision: Precision | None,
    cache: Path,
    *,
    label: str = "",
    named: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> None:
    """Make the control UNets of a repository those of the base that is in it now; where that fails they go.

    :param named: the ControlNet of each kind of control; kinds that are not named are exported again from the one
        that the repository's own was made of.
    """
    specs = controls.control_unets(label)
    noted = {control: manifest.read(repository / spec.name / "1") for control, spec in specs.items()}
    stale = controls.withdraw_stale(repository, label)
    for control, spec in specs.items():
        past = noted[control]
        name = (named or {}).get(control) or (past.sources[export.CONTROLNET].name if past else None)
        kept = precision or (past.precision if past else None)
        try:
            if name is not None:
                steering = origin_of(name, ROOT, cache, CONTROLNET_PATTERNS)
                run_tasks([control_task(spec, repository, base, steering, kept)], quiet=quiet)
            elif spec.name in stale:
                raise ExportError("What it was made of is not noted.")
        except ExportError as error:
            click.echo(f"{spec.name}: {_consequence(repository, spec, stale)}. {error}")
    controls.prune(repository, label)


def _consequence(repository: Path, spec: ModelSpec, stale: set[str]) -> str:
    if installed(repository, spec):
        return "left as it is"
    return "removed, it was made for another checkpoint" if spec.name in stale else "left out"
