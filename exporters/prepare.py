"""`python -m exporters prepare`: the repository that this machine and its settings ask for."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.pipelines.hidream.networks import PIPELINE
from darkroom.pipelines.upscale.networks import NETWORKS
from exporters import manifest
from exporters.config import Placement, write_configs
from exporters.files import CACHE, ROOT
from exporters.hidream.command import DEMO as DEMO_HIDREAM
from exporters.hidream.command import export_family
from exporters.hidream.export import Parents
from exporters.manifest import Precision
from exporters.realesrgan.command import run_jobs
from exporters.realesrgan.export import Job
from exporters.sd15.command import DEMO, base_tasks, export_controls, origin
from exporters.sd15.controls import specs_of
from exporters.tasks import run_tasks
from proxy.settings import Settings


@click.command()
def prepare() -> None:
    """Export what is not exported yet; with GPUs, in half precision and with configs for them.

    Without a GPU this fills the committed model_repository; with GPUs it makes a repository of its own in
    .darkroom, with one instance of each network per GPU (NUM_GPUS_TO_USE). MODEL_REPOSITORY names another one.
    UPSCALE_FP16 and SD15_FP16 choose the precision on GPUs, SD15_CHECKPOINT and SD15_CONTROLNETS what makes pictures.
    """
    settings = Settings()
    repository = settings.model_repository
    managed = repository == settings.state_dir / "model_repository"
    if managed or not any(repository.glob("*/config.pbtxt")):  # a repository of somebody else's keeps its configs
        write_configs(repository, specs_of(repository), Placement(gpus=settings.gpus))
    precision = _precision(settings, settings.upscale_fp16)
    jobs = [Job(network=n, repository=repository, cache=CACHE, precision=precision, file=None) for n in NETWORKS]
    run_jobs(jobs, quiet=True)
    _prepare_sd15(settings, repository)
    _prepare_hidream(settings, repository)


def _precision(settings: Settings, half: bool) -> Precision | None:
    """On a CPU what is installed stays as it is."""
    if not settings.gpus:
        return None
    return "fp16" if half else "fp32"


def _prepare_sd15(settings: Settings, repository: Path) -> None:
    checkpoint = origin(settings.sd15_checkpoint, ROOT, CACHE)
    if not checkpoint.local and ROOT / settings.sd15_checkpoint == DEMO:
        click.echo(f"Text to image is left out: {settings.sd15_checkpoint} is not there.")
        return
    precision = _precision(settings, settings.sd15_fp16)
    run_tasks(base_tasks(checkpoint, repository, precision), quiet=True)
    export_controls(checkpoint, repository, precision, CACHE, named=settings.controlnets, quiet=True)


def _prepare_hidream(settings: Settings, repository: Path) -> None:
    """The demo, where it is and nothing else was exported; other checkpoints are exported by name."""
    demo = origin(str(DEMO_HIDREAM), ROOT, CACHE)
    noted = manifest.read(repository / PIPELINE.name / "1")
    if DEMO_HIDREAM.is_dir() and (noted is None or noted.source == demo.name):
        precision = _precision(settings, settings.sd15_fp16)
        export_family(Parents(checkpoint=demo, llama=None), repository, precision=precision, quiet=True)
