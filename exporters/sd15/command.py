"""`python -m exporters sd15` and `sd15-controlnet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from darkroom.diffusion.controls import control_names
from darkroom.pipelines.sd15 import networks
from darkroom.serving.networks import ModelSpec
from exporters import manifest
from exporters.errors import ExportError
from exporters.files import ROOT
from exporters.manifest import Precision
from exporters.options import cache_option, force_option, output_option, precision_option
from exporters.sd15 import controls, pipeline, single_file
from exporters.sd15 import export as network_export
from exporters.sd15.export import Job
from exporters.sd15.origin import Origin
from exporters.tasks import Task, run_tasks

DEMO = ROOT / "checkpoints" / "demo-sd15"
DEMO_CANNY = ROOT / "checkpoints" / "demo-sd15-canny"
_NETWORKS = (networks.TEXT_ENCODER, networks.VAE_ENCODER, networks.VAE_DECODER, networks.UNET)

PATTERNS = ("model_index.json", pipeline.GENERATION, "unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*")
"""The files of a checkpoint that an export reads."""
CONTROLNET_PATTERNS = ("config.json", "diffusion_pytorch_model*")

_checkpoint_help = "A folder in the diffusers layout, or a hub id."
_config_help = (
    "For a single .safetensors file: a folder or hub id with the configuration and the tokenizer that belong to it. "
    "A folder in the diffusers layout that the file lies in comes first."
)
_output_option = output_option("The model repository to write to.")
_cache_option = cache_option("Where downloads are kept.")


@click.command(
    epilog="""\b
Examples:
  python -m exporters sd15                                                   the demo checkpoint
  python -m exporters sd15 --checkpoint /data/my-sd15 --precision fp16
  python -m exporters sd15 --checkpoint stable-diffusion-v1-5/stable-diffusion-v1-5
  python -m exporters sd15 --checkpoint /data/webui/models/Stable-diffusion/photos.safetensors
  python -m exporters sd15 --output /srv/models                              into another repository"""
)
@click.option(
    "--checkpoint",
    default=str(DEMO),
    show_default="checkpoints/demo-sd15",
    help="A folder in the diffusers layout, a single .safetensors file as web UIs use them, or a hub id.",
)
@click.option("--config", show_default=single_file.CONFIG, help=_config_help)
@precision_option
@_output_option
@_cache_option
@force_option
def sd15(
    checkpoint: str, config: str | None, precision: Precision | None, output: Path, cache: Path, force: bool
) -> None:
    """Export a checkpoint of the Stable Diffusion 1.5 kind to ONNX.

    Text encoder, VAE and UNet, and what the pipeline has to know of them. Every network is compared with diffusers
    before it is installed; what is up to date is left alone. UNets with a ControlNet that are in the repository are
    exported anew for this checkpoint, or removed where that cannot be done.
    """
    base = origin(checkpoint, Path.cwd(), cache, config=config)
    run_tasks(base_tasks(base, output, precision), force=force)
    export_controls(base, output, precision, cache)


@click.command(
    "sd15-controlnet",
    epilog="""\b
Examples:
  python -m exporters sd15-controlnet                                        the demo's, for edges
  python -m exporters sd15-controlnet --control canny --controlnet lllyasviel/sd-controlnet-canny""",
)
@click.option("--control", type=click.Choice(control_names()), default="canny", show_default=True)
@click.option(
    "--controlnet", default=str(DEMO_CANNY), show_default="checkpoints/demo-sd15-canny", help=_checkpoint_help
)
@click.option("--checkpoint", help=f"{_checkpoint_help} Default: the one that is in the repository.")
@precision_option
@_output_option
@_cache_option
@force_option
def sd15_controlnet(
    control: str,
    controlnet: str,
    checkpoint: str | None,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export the UNet with a ControlNet in one graph.

    The ControlNet has to suit the UNet of the checkpoint, which has to be the one that is in the repository.
    """
    noted = controls.base_of(output)
    base = origin(checkpoint or (noted.name if noted else str(DEMO)), Path.cwd(), cache)
    if noted is not None and not base.still(noted):
        raise ExportError(
            f"{networks.UNET.name} in {output} is of another checkpoint, {noted.name}; run first: "
            f"python -m exporters sd15 --checkpoint {base.name}"
        )
    steering = origin(controlnet, Path.cwd(), cache, CONTROLNET_PATTERNS)
    spec = networks.CONTROL_UNETS[control]
    run_tasks([control_task(spec, output, base, steering, precision)], force=force)
    controls.place(output, spec)


def origin(
    text: str,
    base: Path,
    cache: Path,
    patterns: tuple[str, ...] = PATTERNS,
    *,
    config: str | None = None,
) -> Origin:
    """A checkpoint by what a user calls it.

    :param text: a folder or a single file, relative to `base`, or a hub id.
    :param patterns: what an export needs of a repository of the hub.
    :param config: for a single file: where its configuration and its tokenizer are, a folder or a hub id. None = as
        it was unpacked before, else Stable Diffusion 1.5's own.
    """

    def fetch(name: str, wanted: tuple[str, ...] = patterns) -> Path:
        from exporters import hub  # which a folder does not need

        return hub.resolve(name, patterns=wanted, cache=cache)

    def unpack(file: Path) -> Path:
        beside = Origin.of(config or single_file.CONFIG, base, lambda name: fetch(name, single_file.PATTERNS))

        def folder() -> Path:
            if config is None and DEMO.is_dir() and single_file.fits(file, DEMO):
                return DEMO
            try:
                return beside.root
            except ExportError as error:
                raise ExportError(
                    f"{file.name} holds weights only; its configuration cannot be had: {error} "
                    "Name a folder that has it with --config."
                ) from None

        return single_file.unpack(file, folder, cache, named=config and beside.name)

    return Origin.of(text, base, fetch, unpack if patterns is PATTERNS else None)


def base_tasks(base: Origin, repository: Path, precision: Precision | None) -> list[Task]:
    """Everything of a checkpoint but UNets with a ControlNet. The UNet comes last of the networks."""
    jobs = [Job(spec=spec, repository=repository, checkpoint=base, precision=precision) for spec in _NETWORKS]
    loop = Job(spec=networks.PIPELINE, repository=repository, checkpoint=base)
    return [*map(_network_task, jobs), _pipeline_task(loop)]


def control_task(
    spec: ModelSpec, repository: Path, base: Origin, controlnet: Origin, precision: Precision | None
) -> Task:
    """The export of a UNet with a ControlNet."""
    job = Job(spec=spec, repository=repository, checkpoint=base, controlnet=controlnet, precision=precision)
    return _network_task(job)


def _network_task(job: Job) -> Task:
    return Task(
        name=job.spec.name,
        folder=job.folder,
        stages=network_export.STAGES,
        up_to_date=lambda: network_export.up_to_date(job, network_export.current_hash()),
        export=lambda stage: network_export.export(job, stage),
        difference=lambda result: network_export.parity(job.spec, result),
    )


def _pipeline_task(job: Job) -> Task:
    return Task(
        name=job.spec.name,
        folder=job.folder,
        stages=pipeline.STAGES,
        up_to_date=lambda: network_export.up_to_date(job, pipeline.current_hash()),
        export=lambda stage: pipeline.export(job, stage),
        difference=lambda result: f"colours of previews are off by {result.max_error:.1%} (root mean square)",
    )


def export_controls(
    base: Origin,
    repository: Path,
    precision: Precision | None,
    cache: Path,
    *,
    named: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> None:
    """Make the control UNets of a repository those of the base that is in it now; where that fails they go.

    :param named: the ControlNet of each kind of control; kinds that are not named are exported anew from the one that
        the repository's own was made of.
    """
    noted = {spec.name: manifest.read(repository / spec.name / "1") for spec in networks.CONTROL_UNETS.values()}
    stale = controls.withdraw_stale(repository)
    for control, spec in networks.CONTROL_UNETS.items():
        past = noted[spec.name]
        name = (named or {}).get(control) or (past.sources["controlnet"].name if past else None)
        kept = precision or (past.precision if past else None)
        try:
            if name is not None:
                steering = origin(name, ROOT, cache, CONTROLNET_PATTERNS)
                run_tasks([control_task(spec, repository, base, steering, kept)], quiet=quiet)
                controls.place(repository, spec)
            elif spec.name in stale:
                raise ExportError("What it was made of is not noted.")
        except ExportError as error:
            click.echo(f"{spec.name}: {_consequence(repository, spec, stale)}. {error}")
    controls.prune(repository)


def _consequence(repository: Path, spec: ModelSpec, stale: set[str]) -> str:
    if controls.installed(repository, spec):
        return "left as it is"
    return "removed, it was made for another checkpoint" if spec.name in stale else "left out"
