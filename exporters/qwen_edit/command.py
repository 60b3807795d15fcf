"""`python -m exporters qwen-edit`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click

from darkroom.diffusion.maps import fetched
from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.settings import Settings as QwenEditSettings
from darkroom.serving.networks import ModelSpec, split_label
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.checkpoints.origin import Origin, origin
from exporters.config import Placement
from exporters.defaults import is_other_checkpoint, precision_of
from exporters.export import ModelExport, pipeline_task
from exporters.files import CACHE, ROOT
from exporters.manifest import Precision
from exporters.merged_lora import ROLE, LoraFile, lora_file
from exporters.options import cache_option, force_option, label_option, output_option, precision_option
from exporters.placement import correct, divided_placement
from exporters.qwen_edit import export, pipeline, weights
from exporters.repository import labels_of
from exporters.tasks import ExportTask, run_tasks

DEMO = ROOT / "checkpoints" / "demo-qwen-edit"
KIND = "Qwen-Image-Edit"
CLASSES = tuple(weights.PIPELINES)
PATTERNS = (INDEX, GENERATION, "transformer/*", "vae/*", "text_encoder/*", "tokenizer/*", "processor/*", "scheduler/*")
"""The files of a checkpoint that an export reads."""
MAP_PATTERNS = ("config.json", "preprocessor_config.json", "model*.safetensors*")
"""Those of a model that makes maps."""


@click.command(
    epilog="""\b
Examples:
  python -m exporters qwen-edit                                        the demo checkpoint
  python -m exporters qwen-edit --checkpoint Qwen/Qwen-Image-Edit-2509
  python -m exporters qwen-edit --checkpoint /data/mine --output /srv/models
  python -m exporters qwen-edit --checkpoint Qwen/Qwen-Image-Edit --as single    beside the one that is there
  python -m exporters qwen-edit --checkpoint Qwen/Qwen-Image-Edit-2509 --controlnet InstantX/Qwen-Image-ControlNet-Union
  python -m exporters qwen-edit --lora Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors"""
)
@click.option(
    "--checkpoint",
    default=str(DEMO),
    show_default="checkpoints/demo-qwen-edit",
    help="A folder in the diffusers layout, or a hub id.",
)
@label_option
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
@click.option(
    "--lora",
    metavar="FILE",
    help="A LoRA file (.safetensors) that becomes part of the transformer. One of Lightning brings its scheduler, its "
    "steps and no guidance with it. Without --as the label is lightning-STEPS, or lora for others.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 100),
    help="Steps that the LoRA was distilled for. Default: what its name or its metadata say.",
)
@click.option(
    "--controlnet",
    metavar="FOLDER|ID",
    help="A ControlNet of Qwen-Image for control images. Without it the model sees them as further images.",
)
def qwen_edit(
    checkpoint: str,
    label: str,
    precision: Precision | None,
    output: Path,
    cache: Path,
    force: bool,
    lora: str | None,
    steps: int | None,
    controlnet: str | None,
) -> None:
    """Export a Qwen-Image-Edit checkpoint: the VAE to ONNX in --precision, the other weights as they are.

    The VAE is compared with its original before it is installed, the weights with their config.json; what is up to
    date is left alone. Models that the repository did not have get their config.pbtxt.
    """
    if steps is not None and lora is None:
        raise click.BadParameter("goes with --lora; a checkpoint says its own.", param_hint="'--steps'")
    source, added = origin(checkpoint, Path.cwd(), cache, PATTERNS), None
    if lora is not None:
        added = lora_file(lora, Path.cwd(), steps)
        label = label or added.label
    steering = _controlnet(controlnet, Path.cwd(), cache)
    tasks = family_tasks(source, output, precision=precision, label=label, lora=added, controlnet=steering)
    run_tasks(tasks, force=force)
    correct(output, networks.TRANSFORMER.labelled(label))


def _controlnet(text: str | None, base: Path, cache: Path) -> Origin | None:
    return origin(text, base, cache, weights.CONTROLNET_PATTERNS) if text else None


COMMANDS = (qwen_edit,)


def prepare(settings: Settings, repository: Path) -> None:
    """QWEN_EDIT_CHECKPOINT and QWEN_EDIT_CONTROLNET name what edits, QWEN_EDIT_FP16 chooses the precision of its VAE on
    GPUs. QWEN_EDIT_DEVICES and QWEN_EDIT_DEVICE_TYPE change the config of the transformer."""
    _export_asked(settings, repository)
    for label in ("", *labels_of(repository)):
        spec = networks.TRANSFORMER.labelled(label)
        correct(repository, spec, partial(placement, settings, spec))
        _fetch_maps(QwenEditSettings.of(settings), repository / networks.PIPELINE.labelled(label).name / "1")


def _fetch_maps(wanted: QwenEditSettings, pipeline: Path) -> None:
    """Link the models of the hub that make maps into the folder of a pipeline, which looks for them there.

    :raises ExportError: one cannot be fetched.
    """
    for name, model in wanted.map_models.items():
        link = fetched(name, pipeline)
        link.unlink(missing_ok=True)
        if model and pipeline.is_dir():
            found = origin(model, ROOT, CACHE, MAP_PATTERNS)
            if not found.local:
                link.symlink_to(found.root, target_is_directory=True)


def _export_asked(settings: Settings, repository: Path) -> None:
    """The checkpoint that is asked for; the demo, which is the default, where it is and no other was exported."""
    wanted = QwenEditSettings.of(settings)
    noted = manifest.read(repository / networks.PIPELINE.name / "1")
    if ROOT / wanted.checkpoint == DEMO and (
        not DEMO.is_dir() or (noted is not None and is_other_checkpoint(noted.source, DEMO))
    ):
        return
    source = origin(wanted.checkpoint, ROOT, CACHE, PATTERNS)
    precision, controlnet = precision_of(settings, wanted.fp16), _controlnet(wanted.controlnet, ROOT, CACHE)
    run_tasks(family_tasks(source, repository, precision=precision, controlnet=controlnet), quiet=True)


def placement(settings: Settings, spec: ModelSpec, usual: Placement) -> Placement:
    """Return the placement of a model of the family: the transformer may have devices of its own."""
    if split_label(spec.name)[0] != networks.TRANSFORMER.name:
        return usual
    wanted = QwenEditSettings.of(settings)
    return divided_placement(usual, wanted.device_type, wanted.devices)


def family_tasks(
    source: Origin,
    repository: Path,
    *,
    precision: Precision | None = None,
    label: str = "",
    lora: LoraFile | None = None,
    controlnet: Origin | None = None,
) -> list[ExportTask]:
    """The exports of everything of a checkpoint, the pipeline last.

    :param lora: becomes part of the transformer.
    :param controlnet: is served with the transformer.
    """
    beside = {ROLE: lora.origin} if lora else {}
    beside |= {weights.CONTROLNET: controlnet} if controlnet else {}

    def wanted(
        spec: ModelSpec, precision: Precision | None = None, beside: Mapping[str, Origin] | None = None
    ) -> ModelExport:
        return ModelExport(
            spec=spec.labelled(label),
            repository=repository,
            checkpoint=source,
            beside=beside or {},
            precision=precision,
        )

    whole = wanted(networks.PIPELINE, beside=beside)
    return [
        *(export.vae_task(wanted(spec, precision)) for spec in (networks.VAE_ENCODER, networks.VAE_DECODER)),
        export.torch_task(wanted(networks.TEXT_ENCODER)),
        export.torch_task(wanted(networks.TRANSFORMER, beside=beside), lora),
        pipeline_task(
            whole,
            stages=pipeline.STAGES,
            exporter=lambda: pipeline.current_hash(lora),
            export=lambda stage: pipeline.export(whole, stage, lora),
        ),
    ]
