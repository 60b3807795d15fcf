"""`python -m exporters prepare`: the repository that this machine and its settings ask for."""

from __future__ import annotations

import click

from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.registry import all_specs
from exporters.config import Placement, write_configs
from exporters.manifest import Precision
from exporters.realesrgan.command import CACHE, run_jobs
from exporters.realesrgan.export import Job
from proxy.settings import Settings


@click.command()
def prepare() -> None:
    """Export what is not exported yet; with GPUs, in half precision (UPSCALE_FP16) and with configs for them.

    Without a GPU this fills the committed model_repository; with GPUs it makes a repository of its own in
    .darkroom, with one instance of each network per GPU (NUM_GPUS_TO_USE). MODEL_REPOSITORY names another one.
    """
    settings = Settings()
    repository, precision = settings.model_repository, None
    managed = repository == settings.state_dir / "model_repository"
    if managed or not any(repository.glob("*/config.pbtxt")):  # a repository of somebody else's keeps its configs
        write_configs(repository, all_specs(), Placement(gpus=settings.gpus))
    if settings.gpus:
        precision = _precision(settings)
    jobs = [Job(network=n, repository=repository, cache=CACHE, precision=precision, file=None) for n in NETWORKS]
    run_jobs(jobs, quiet=True)


def _precision(settings: Settings) -> Precision:
    return "fp16" if settings.upscale_fp16 else "fp32"
