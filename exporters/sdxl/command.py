"""`python -m exporters sdxl` and `sdxl-controlnet`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from darkroom.diffusion.control_settings import controlnet_of
from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.settings import NO_REFINER
from darkroom.pipelines.sdxl.settings import Settings as SdxlSettings
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.contents import Contents
from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.checkpoints.origin import Origin
from exporters.checkpoints.single_file.unpack import Choices, single_file_origin
from exporters.controls import ControlUnets, controlnet_command
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
from exporters.sdxl import export, pipeline, single_file
from exporters.sdxl.single_file import DEMO, DEMO_REFINER
from exporters.tasks import ExportTask, run_tasks

KIND = "Stable Diffusion XL"
CLASSES = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline")
PATTERNS = (INDEX, GENERATION, "unet/*", "vae/*", "text_encoder*/*", "tokenizer*/*", "scheduler/*")
"""The files of a base checkpoint that an export reads."""
REFINER_PATTERNS = (INDEX, "unet/*")


@click.command(
    epilog="""\b
Examples:
  python -m exporters sdxl --checkpoint /data/my-sdxl --precision fp16       the base alone
  python -m exporters sdxl --checkpoint stabilityai/stable-diffusion-xl-base-1.0 \\
      --refiner stabilityai/stable-diffusion-xl-refiner-1.0
  python -m exporters sdxl --checkpoint /data/webui/models/Stable-diffusion/photos-xl.safetensors
  python -m exporters sdxl --checkpoint stabilityai/sdxl-turbo --as turbo    beside the one that is there"""
)
@click.option(
    "--checkpoint",
    default=str(DEMO),
    show_default="checkpoints/demo-sdxl-base",
    help="The base: a folder in the diffusers layout, a single .safetensors file as web UIs use them, or a hub id.",
)
@click.option(
    "--refiner",
    help="The refiner: a folder in the diffusers layout, a single .safetensors file, or a hub id; none to remove the "
    "one that is in the repository. Default: that one stays.",
)
@config_option
@prediction_option
@label_option
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
def sdxl(
    checkpoint: str,
    refiner: str | None,
    config: str | None,
    prediction: str | None,
    label: str,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export a checkpoint of the Stable Diffusion XL kind to ONNX, and a refiner.

    Both text encoders, VAE encoder and decoder, and UNet, and what the pipeline has to know of them. Every network is
    compared with diffusers before it is installed; what is up to date is left alone. The VAE stays in fp32, because it
    overflows in fp16. The refiner's UNet goes with the second text encoder and the VAE of the base. UNets with a
    ControlNet that are in the repository are exported again for this checkpoint, or removed where that cannot be done.
    """
    base = origin(checkpoint, Path.cwd(), cache, Choices(config=config, prediction=prediction))
    run_tasks(base_tasks(base, output, precision, label), force=force)
    export_refiner(base, refiner, Path.cwd(), output, precision, cache, label=label, force=force)
    CONTROLS.export(base, output, precision, cache, label=label)


def origin(text: str, base: Path, cache: Path, choices: Choices | None = None) -> Origin:
    """A base by what a user calls it: a folder or a single file, relative to `base`, or a hub id.

    :param choices: for a single file.
    """
    return single_file_origin(text, base, cache, PATTERNS, single_file.BASE, choices)


CONTROLS = ControlUnets(unet=networks.UNET, specs=networks.CONTROL_UNETS, task_of=export.task_of)
sdxl_controlnet = controlnet_command(
    CONTROLS,
    sdxl,
    examples="""\
  python -m exporters sdxl-controlnet --controlnet diffusers/controlnet-canny-sdxl-1.0
  python -m exporters sdxl-controlnet --as photos --controlnet /data/canny-xl""",
    origin=origin,
    checkpoint=DEMO,
)
COMMANDS = (sdxl, sdxl_controlnet)


def recognises(contents: Contents) -> bool:
    """Whether a folder's pipeline is of this family, or a single file, a base or a refiner."""
    kinds = (single_file.BASE, single_file.REFINER)
    return contents.class_name in CLASSES or any(kind.recognises(contents.names) for kind in kinds)


def arguments(checkpoint: str, contents: Contents) -> list[str]:
    """The arguments of `sdxl` for a checkpoint.

    :raises ExportError: it is a refiner, which is exported with its base.
    """
    if single_file.REFINER.recognises(contents.names):
        raise ExportError(
            f"{contents.title} is a refiner, which goes with a base; run: "
            f"python -m exporters sdxl --checkpoint BASE --refiner {checkpoint}"
        )
    return ["--checkpoint", checkpoint]


def prepare(settings: Settings, repository: Path) -> None:
    """SDXL_CHECKPOINT, SDXL_REFINER and SDXL_CONTROLNETS name what makes images, SDXL_FP16 chooses the precision on
    GPUs."""
    wanted = SdxlSettings.of(settings)
    base = origin(wanted.checkpoint, ROOT, CACHE)
    noted = manifest.read(repository / networks.PIPELINE.name / "1")
    demo = ROOT / wanted.checkpoint == DEMO
    if demo and (not DEMO.is_dir() or (noted is not None and is_other_checkpoint(noted.source, DEMO))):
        return
    precision = precision_of(settings, wanted.fp16)
    run_tasks(base_tasks(base, repository, precision), quiet=True)
    refiner: str | None = wanted.refiner
    if ROOT / wanted.refiner == DEMO_REFINER and not (demo and DEMO_REFINER.is_dir()):
        refiner = None
    export_refiner(base, refiner, ROOT, repository, precision, CACHE, quiet=True)
    CONTROLS.export(base, repository, precision, CACHE, named=controlnet_of(wanted.controlnets), quiet=True)


def base_tasks(base: Origin, repository: Path, precision: Precision | None, label: str = "") -> list[ExportTask]:
    """Everything of a base checkpoint, the pipeline last."""

    def network(spec: ModelSpec, kept: Precision | None) -> ExportTask:
        named = spec.labelled(label)
        return export.task_of(ModelExport(spec=named, repository=repository, checkpoint=base, precision=kept))

    loop = ModelExport(spec=networks.PIPELINE.labelled(label), repository=repository, checkpoint=base)
    last = pipeline_task(
        loop,
        stages=pipeline.STAGES,
        exporter=pipeline.current_hash,
        export=lambda stage: pipeline.export(loop, stage),
        also=(networks.LORAS.labelled(label),),
    )
    return [
        *(network(spec, precision) for spec in networks.TEXT_ENCODERS),
        network(networks.VAE_ENCODER, "fp32"),
        network(networks.VAE_DECODER, "fp32"),
        network(networks.UNET, precision),
        last,
    ]


def refiner_task(
    base: Origin, refiner: Origin, repository: Path, precision: Precision | None, label: str = ""
) -> ExportTask:
    """The export of a refiner's UNet."""
    spec = networks.REFINER_UNET.labelled(label)
    beside = {export.BASE: base}
    return export.task_of(
        ModelExport(spec=spec, repository=repository, checkpoint=refiner, beside=beside, precision=precision)
    )


def export_refiner(
    base: Origin,
    named: str | None,
    folder: Path,
    repository: Path,
    precision: Precision | None,
    cache: Path,
    *,
    label: str = "",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Make the refiner of a repository go with the base that is in it now.

    :param named: a folder or a single file, relative to `folder`, or a hub id; NO_REFINER: it is removed; None: the
        one that is in the repository stays, or is removed where it does not go with the base.
    :raises ExportError: a refiner that was named cannot be exported.
    """
    model = repository / networks.REFINER_UNET.labelled(label).name
    noted = manifest.read(model / "1")
    name = named or (noted.sources["checkpoint"].name if noted else None)
    if name is None or name == NO_REFINER:
        shutil.rmtree(model, ignore_errors=True)
        return
    try:
        refiner = single_file_origin(name, folder, cache, REFINER_PATTERNS, single_file.REFINER)
        run_tasks([refiner_task(base, refiner, repository, precision, label)], force=force, quiet=quiet)
    except ExportError as error:
        if named:
            raise
        shutil.rmtree(model, ignore_errors=True)
        click.echo(f"{model.name}: removed, it does not go with the base. {error}")
