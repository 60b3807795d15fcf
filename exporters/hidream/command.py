"""`python -m exporters hidream`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.variants import VARIANTS
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters import config
from exporters.config import Placement
from exporters.files import ROOT
from exporters.hidream import export as hidream_export
from exporters.hidream import pipeline, transformer, weights
from exporters.hidream.export import Parents
from exporters.hidream.pipeline import Wanted
from exporters.manifest import Manifest, Precision
from exporters.options import cache_option, force_option, output_option, precision_option
from exporters.sd15 import export as network_export
from exporters.sd15.command import origin
from exporters.sd15.export import Job
from exporters.sd15.origin import Origin
from exporters.tasks import Stage, Task, run_tasks

DEMO = ROOT / "checkpoints" / "demo-hidream"
PATTERNS = ("model_index.json", "transformer/*", "vae/*", "text_encoder*/*", "tokenizer*/*", "scheduler/*")
"""The files of a checkpoint that an export reads."""
LLAMA_PATTERNS = ("config.json", "model*.safetensors*", "tokenizer*", "special_tokens_map.json")
"""Those of a Llama in a checkpoint of its own."""
_PARTS = {
    networks.CLIP_L.name: weights.CLIPS[0],
    networks.CLIP_G.name: weights.CLIPS[1],
    networks.T5.name: weights.T5,
    networks.LLAMA.name: weights.LLAMA,
    networks.VAE_DECODER.name: weights.VAE,
}


@click.command(
    epilog="""\b
Examples:
  python -m exporters hidream                                                the demo checkpoint
  python -m exporters hidream --checkpoint HiDream-ai/HiDream-I1-Full --llama meta-llama/Llama-3.1-8B-Instruct
  python -m exporters hidream --checkpoint /data/HiDream-I1-Dev --llama /data/Llama-3.1-8B-Instruct --precision fp16
  python -m exporters hidream --checkpoint /data/mine --variant fast --output /srv/models"""
)
@click.option(
    "--checkpoint",
    default=str(DEMO),
    show_default="checkpoints/demo-hidream",
    help="A folder in the diffusers layout, or a hub id.",
)
@click.option("--llama", help="Llama's folder or hub id. Default: text_encoder_4 of the checkpoint.")
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    help="Steps, guidance and scheduler. Default: what the checkpoint's name ends with; else its own scheduler with "
    "the steps and guidance of full.",
)
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
def hidream(
    checkpoint: str,
    llama: str | None,
    variant: str | None,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export a HiDream-I1 checkpoint: encoders and VAE to ONNX in --precision, the transformer's weights as they are.

    Every ONNX network is compared with its original before it is installed, the transformer's weights with its
    config.json; what is up to date is left alone. Models that the repository did not have get their config.pbtxt.
    """
    parents = Parents(
        checkpoint=origin(checkpoint, Path.cwd(), cache, PATTERNS),
        llama=origin(llama, Path.cwd(), cache, LLAMA_PATTERNS) if llama else None,
    )
    export_family(parents, output, variant=variant, precision=precision, force=force)


def export_family(
    parents: Parents,
    repository: Path,
    *,
    variant: str | None = None,
    precision: Precision | None = None,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Export everything of a checkpoint into a repository, the pipeline last.

    :raises ExportError: of the first that fails.
    """
    for spec in networks.specs():
        run_tasks([_task(spec, parents, repository, variant, precision)], force=force, quiet=quiet)
        _place(repository, spec)


def _place(repository: Path, spec: ModelSpec) -> None:
    """Give a model that came to a repository a config for the devices that its networks run on."""
    if not config.config_path(repository, spec).is_file():
        usual = config.placement_in(repository) or Placement(gpus=Settings().gpus)
        config.write_configs(repository, [spec], usual)


def transformer_placement(usual: Placement, device_type: str | None, devices: tuple[int, ...]) -> Placement:
    """Where the transformer runs, which has devices of its own (HIDREAM_DEVICE_TYPE, HIDREAM_DEVICES).

    It is one instance as soon as it is told of devices, however many: it divides itself over them (decision 12).

    :param usual: of the other networks, and of the transformer when neither is given.
    :param device_type: None = where the other networks run.
    :param devices: their numbers; empty = those of the other networks.
    """
    if device_type is None and not devices:
        return replace(usual, unknown_device=False)  # as it was once asked for, and is not any more
    if (device_type or ("cuda" if usual.gpus else "cpu")) == "cuda":
        gpus = devices[:1] or usual.gpus or (0,)
        return replace(usual, gpus=gpus, instances=1 if devices else usual.instances, unknown_device=False)
    return replace(usual, gpus=(), instances=1, unknown_device=device_type == "npu")


def _task(
    spec: ModelSpec, parents: Parents, repository: Path, variant: str | None, precision: Precision | None
) -> Task:
    if spec is networks.PIPELINE:
        return _pipeline_task(parents, repository, variant)
    if spec is networks.TRANSFORMER:
        return _transformer_task(Job(spec=spec, repository=repository, checkpoint=parents.checkpoint), parents)
    source: Origin = parents.of(_PARTS[spec.name])
    return _network_task(Job(spec=spec, repository=repository, checkpoint=source, precision=precision), parents)


def _network_task(job: Job, parents: Parents) -> Task:
    def export(stage: Stage) -> Manifest:
        return hidream_export.export_network(job, parents, stage)

    return Task(
        name=job.spec.name,
        folder=job.folder,
        stages=network_export.STAGES,
        up_to_date=lambda: network_export.up_to_date(job, hidream_export.current_hash()),
        export=export,
        difference=lambda result: network_export.parity(job.spec, result),
    )


def _transformer_task(job: Job, parents: Parents) -> Task:
    def export(stage: Stage) -> Manifest:
        return transformer.export(job, parents.llama.root if parents.llama else None, stage)

    return Task(
        name=job.spec.name,
        folder=job.folder,
        stages=transformer.STAGES,
        up_to_date=lambda: network_export.up_to_date(job, transformer.current_hash()),
        export=export,
        difference=lambda result: "the weights are the checkpoint's own",
    )


def _pipeline_task(parents: Parents, repository: Path, variant: str | None) -> Task:
    job = Job(spec=networks.PIPELINE, repository=repository, checkpoint=parents.checkpoint)
    wanted = Wanted(job=job, llama=parents.llama, variant=variant)
    return Task(
        name=job.spec.name,
        folder=job.folder,
        stages=pipeline.STAGES,
        up_to_date=lambda: pipeline.up_to_date(wanted),
        export=lambda stage: pipeline.export(wanted, stage),
        difference=lambda result: f"colours of previews are off by {result.max_error:.1%} (root mean square)",
    )
