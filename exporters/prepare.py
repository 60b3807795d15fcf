"""`python -m exporters prepare`: the repository that this machine and its settings ask for."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.pipelines.hidream.networks import PIPELINE, TRANSFORMER
from darkroom.pipelines.hidream.settings import Settings as HidreamSettings
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters import manifest
from exporters.config import Placement, config_path, placement_of, write_configs
from exporters.errors import ExportError
from exporters.files import CACHE, ROOT
from exporters.hidream.command import DEMO as DEMO_HIDREAM
from exporters.hidream.command import LLAMA_PATTERNS, PATTERNS, export_family, transformer_placement
from exporters.hidream.export import Parents
from exporters.manifest import Precision
from exporters.realesrgan.command import run_jobs
from exporters.realesrgan.export import Job
from exporters.sd15.command import DEMO, base_tasks, export_controls, origin
from exporters.sd15.controls import base_of, specs_of
from exporters.tasks import run_tasks


@click.command()
def prepare() -> None:
    """Export what is not exported yet; with GPUs, in half precision and with configs for them.

    Without a GPU this fills the committed model_repository; with GPUs it makes a repository of its own in
    .darkroom, with one instance of each network per GPU (NUM_GPUS_TO_USE). MODEL_REPOSITORY names another one.
    UPSCALE_FP16, SD15_FP16 and HIDREAM_FP16 choose the precision on GPUs, SD15_CHECKPOINT, SD15_CONTROLNETS,
    HIDREAM_CHECKPOINT, HIDREAM_LLAMA and HIDREAM_VARIANT what makes pictures. HIDREAM_DEVICES and HIDREAM_DEVICE_TYPE
    change the config of HiDream's transformer.
    """
    settings = Settings()
    repository = settings.model_repository
    managed = repository == settings.state_dir / "model_repository"
    if managed or not any(repository.glob("*/config.pbtxt")):  # a repository of somebody else's keeps its configs
        for spec in specs_of(repository):
            write_configs(repository, [spec], _placement(settings, spec, Placement(gpus=settings.gpus)))
    precision = _precision(settings, UpscaleSettings.of(settings).fp16)
    jobs = [Job(network=n, repository=repository, cache=CACHE, precision=precision, file=None) for n in NETWORKS]
    run_jobs(jobs, quiet=True)
    _prepare_sd15(settings, repository)
    _prepare_hidream(settings, repository)
    _place_transformer(settings, repository)


def _precision(settings: Settings, half: bool) -> Precision | None:
    """On a CPU what is installed stays as it is."""
    if not settings.gpus:
        return None
    return "fp16" if half else "fp32"


def _placement(settings: Settings, spec: ModelSpec, usual: Placement) -> Placement:
    if spec is not TRANSFORMER:
        return usual
    wanted = HidreamSettings.of(settings)
    return transformer_placement(usual, wanted.device_type, wanted.devices)


def _is_of_another(noted: str, demo: Path) -> bool:
    """Whether a repository holds a checkpoint of the user's own. The demo stays the demo when its clone is moved."""
    return Path(noted).parts[-2:] != demo.parts[-2:]


def _prepare_sd15(settings: Settings, repository: Path) -> None:
    """The checkpoint that is asked for; the demo, which is the default, where it is and no other was exported."""
    wanted = Sd15Settings.of(settings)
    checkpoint = origin(wanted.checkpoint, ROOT, CACHE)
    if ROOT / wanted.checkpoint == DEMO:
        noted = base_of(repository)
        if noted is not None and _is_of_another(noted.name, DEMO):
            return
        if not checkpoint.local:
            click.echo(f"Text to image is left out: {wanted.checkpoint} is not there.")
            return
    precision = _precision(settings, wanted.fp16)
    run_tasks(base_tasks(checkpoint, repository, precision), quiet=True)
    export_controls(checkpoint, repository, precision, CACHE, named=wanted.controlnet_of, quiet=True)


def _prepare_hidream(settings: Settings, repository: Path) -> None:
    """The checkpoint that is asked for; the demo, which is the default, where it is and no other was exported."""
    wanted = HidreamSettings.of(settings)
    checkpoint = origin(wanted.checkpoint, ROOT, CACHE, PATTERNS)
    noted = manifest.read(repository / PIPELINE.name / "1")
    if ROOT / wanted.checkpoint == DEMO_HIDREAM and (
        not DEMO_HIDREAM.is_dir() or (noted is not None and _is_of_another(noted.source, DEMO_HIDREAM))
    ):
        return
    named = wanted.llama
    llama = origin(named, ROOT, CACHE, LLAMA_PATTERNS) if named else None
    export_family(
        Parents(checkpoint=checkpoint, llama=llama),
        repository,
        variant=wanted.variant,
        precision=_precision(settings, wanted.fp16),
        quiet=True,
    )


def _place_transformer(settings: Settings, repository: Path) -> None:
    """Mend the transformer's config where the settings tell of its devices, in any repository: one that asks for an
    instance per GPU cannot be served on them."""
    path = config_path(repository, TRANSFORMER)
    if path.is_file():
        try:
            found = placement_of(path.read_text(), TRANSFORMER)
        except ValueError as error:
            raise ExportError(f"{error}.") from None
        wanted = _placement(settings, TRANSFORMER, found)
        if wanted != found:
            write_configs(repository, [TRANSFORMER], wanted)
