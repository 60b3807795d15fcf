"""`python -m exporters hidream`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.settings import Settings as HidreamSettings
from darkroom.pipelines.hidream.variants import VARIANTS
from darkroom.serving.networks import ModelSpec, split_label
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.origin import origin
from exporters.config import Placement
from exporters.defaults import is_other_checkpoint, precision_of
from exporters.export import ModelExport, model_task, pipeline_task
from exporters.files import CACHE, ROOT
from exporters.hidream import export, pipeline, transformer, weights
from exporters.hidream.export import CheckpointSources
from exporters.manifest import Precision
from exporters.options import cache_option, force_option, label_option, output_option, precision_option
from exporters.placement import correct, divided_placement
from exporters.repository import labels_of
from exporters.tasks import ExportTask, run_tasks

DEMO = ROOT / "checkpoints" / "demo-hidream"
KIND = "HiDream-I1"
CLASSES = ("HiDreamImagePipeline",)
PATTERNS = (INDEX, "transformer/*", "vae/*", "text_encoder*/*", "tokenizer*/*", "scheduler/*")
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
  python -m exporters hidream --checkpoint /data/mine --variant fast --output /srv/models
  python -m exporters hidream --checkpoint HiDream-ai/HiDream-I1-Dev --as dev    beside the one that is there"""
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
@label_option
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
def hidream(
    checkpoint: str,
    llama: str | None,
    variant: str | None,
    label: str,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
) -> None:
    """Export a HiDream-I1 checkpoint: encoders and VAE to ONNX in --precision, the transformer's weights as they are.

    Every ONNX network is compared with its original before it is installed, the transformer's weights with its
    config.json; what is up to date is left alone. Models that the repository did not have get their config.pbtxt.
    """
    sources = CheckpointSources(
        checkpoint=origin(checkpoint, Path.cwd(), cache, PATTERNS),
        llama=origin(llama, Path.cwd(), cache, LLAMA_PATTERNS) if llama else None,
    )
    run_tasks(family_tasks(sources, output, variant=variant, precision=precision, label=label), force=force)


COMMANDS = (hidream,)


def prepare(settings: Settings, repository: Path) -> None:
    """HIDREAM_CHECKPOINT, HIDREAM_LLAMA and HIDREAM_VARIANT name what makes images, HIDREAM_FP16 chooses the
    precision of its encoders on GPUs. HIDREAM_DEVICES and HIDREAM_DEVICE_TYPE change the config of the transformer.
    """
    _export_asked(settings, repository)
    for label in ("", *labels_of(repository)):
        spec = networks.TRANSFORMER.labelled(label)
        correct(repository, spec, partial(placement, settings, spec))


def placement(settings: Settings, spec: ModelSpec, usual: Placement) -> Placement:
    """Return the placement of a model of the family: the transformer may have devices of its own."""
    if split_label(spec.name)[0] != networks.TRANSFORMER.name:
        return usual
    wanted = HidreamSettings.of(settings)
    return divided_placement(usual, wanted.device_type, wanted.devices)


def _export_asked(settings: Settings, repository: Path) -> None:
    """The checkpoint that is asked for; the demo, which is the default, where it is and no other was exported."""
    wanted = HidreamSettings.of(settings)
    checkpoint = origin(wanted.checkpoint, ROOT, CACHE, PATTERNS)
    noted = manifest.read(repository / networks.PIPELINE.name / "1")
    if ROOT / wanted.checkpoint == DEMO and (
        not DEMO.is_dir() or (noted is not None and is_other_checkpoint(noted.source, DEMO))
    ):
        return
    named = wanted.llama
    llama = origin(named, ROOT, CACHE, LLAMA_PATTERNS) if named else None
    sources = CheckpointSources(checkpoint=checkpoint, llama=llama)
    precision = precision_of(settings, wanted.fp16)
    run_tasks(family_tasks(sources, repository, variant=wanted.variant, precision=precision), quiet=True)


def family_tasks(
    sources: CheckpointSources,
    repository: Path,
    *,
    variant: str | None = None,
    precision: Precision | None = None,
    label: str = "",
) -> list[ExportTask]:
    """The exports of everything of a checkpoint, the pipeline last."""
    in_onnx = (*networks.ENCODERS, networks.VAE_DECODER)
    return [
        *(_network_task(spec, sources, repository, precision, label) for spec in in_onnx),
        _transformer_task(sources, repository, label),
        _pipeline_task(sources, repository, variant, label),
    ]


def _network_task(
    spec: ModelSpec, sources: CheckpointSources, repository: Path, precision: Precision | None, label: str
) -> ExportTask:
    source = sources.of(_PARTS[spec.name])
    wanted = ModelExport(spec=spec.labelled(label), repository=repository, checkpoint=source, precision=precision)
    return export.task_of(wanted, sources)


def _transformer_task(sources: CheckpointSources, repository: Path, label: str) -> ExportTask:
    spec = networks.TRANSFORMER.labelled(label)
    wanted = ModelExport(spec=spec, repository=repository, checkpoint=sources.checkpoint)
    return model_task(
        wanted,
        stages=transformer.STAGES,
        exporter=transformer.current_hash,
        export=lambda stage: transformer.export(wanted, sources, stage),
        difference=lambda result: "the weights are the checkpoint's own",
    )


def _pipeline_task(sources: CheckpointSources, repository: Path, variant: str | None, label: str) -> ExportTask:
    spec = networks.PIPELINE.labelled(label)
    wanted = ModelExport(spec=spec, repository=repository, checkpoint=sources.checkpoint, beside=sources.beside)
    return pipeline_task(
        wanted,
        stages=pipeline.STAGES,
        exporter=lambda: pipeline.current_hash(sources.checkpoint, variant),
        export=lambda stage: pipeline.export(wanted, sources, variant, stage),
    )
