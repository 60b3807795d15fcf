"""What the loop needs beside the networks: pipeline.json and the tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.diffusion.schedulers import flow_config, is_flow
from darkroom.pipelines.hidream.checkpoint import ENCODERS, HidreamCheckpointInfo, tokenizer_name
from darkroom.pipelines.hidream.networks import PATCH_SIZE, VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.variants import DEFAULT, VARIANTS
from darkroom.request.fields import SIDE_MINIMUM
from exporters import manifest
from exporters.checkpoints import preview
from exporters.checkpoints.components import SCHEDULER, weights_digest
from exporters.checkpoints.files import read_json
from exporters.checkpoints.origin import Origin
from exporters.errors import ExportError
from exporters.export import ModelExport, install
from exporters.hidream import tokenizers, weights
from exporters.hidream.export import LLAMA_ROLE, CheckpointSources
from exporters.manifest import Manifest, SourceCheckpoint
from exporters.tasks import Stage

STAGES = ("read weights", "convert tokenizers", "fit preview", "install")
_MODULES = (
    "exporters.checkpoints.preview",
    "exporters.checkpoints.tokenizers",
    "exporters.hidream.pipeline",
    "exporters.hidream.tokenizers",
)


def current_hash(origin: Origin, variant: str | None) -> str:
    """The hash of everything that shapes the files.

    :param variant: a name of VARIANTS; None = what the checkpoint's name ends with.
    """
    return manifest.code_hash(_MODULES, str(variant or named_variant(origin)), repr(VARIANTS))


def export(wanted: ModelExport, sources: CheckpointSources, variant: str | None, stage: Stage) -> Manifest:
    """Write the files. `stage` is called with each of STAGES as it begins.

    :param variant: a name of VARIANTS; None = what the checkpoint's name ends with.
    :raises ExportError: the checkpoint is unfit.
    """
    stage("read weights")
    checkpoint = sources.read()
    name, scheduler = sampling_of(sources.checkpoint, variant)
    vae = weights.load(weights.VAE, checkpoint.parts[weights.VAE])
    stage("convert tokenizers")
    parts = (*weights.CLIPS, weights.T5, weights.LLAMA)
    words = {
        encoder: tokenizers.convert(checkpoint, encoder, checkpoint.parts[part])
        for encoder, part in zip(ENCODERS, parts, strict=True)
    }
    stage("fit preview")
    fit = preview.fit(vae)
    files = _sources(sources, checkpoint)
    stage("install")
    facts = HidreamCheckpointInfo(
        name=sources.checkpoint.title,
        digest=weights_digest(checkpoint.parts[weights.TRANSFORMER], files["checkpoint"])[:10],
        side=_side(checkpoint),
        scheduler=scheduler,
        latent_rgb=fit.matrix,
        variant=name,  # type: ignore[arg-type]
        max_tokens=_tokens(checkpoint),
        padding={encoder: one.padding for encoder, one in words.items()},
    )
    contents = {tokenizer_name(encoder): one.json.encode() for encoder, one in words.items()}
    return install(
        wanted,
        {**contents, FILE_NAME: facts.to_json().encode()},
        exporter=current_hash(sources.checkpoint, variant),
        sources=files,
        max_error=fit.error,
        error_share=1.0,
    )


def sampling_of(origin: Origin, variant: str | None) -> tuple[str, dict[str, Any]]:
    """The variant of a checkpoint, and its scheduler_config.json.

    A variant that is asked for, or that the checkpoint's name ends with (HiDream-I1-Dev), has a scheduler of its own.
    Without one the checkpoint's own scheduler is taken, with the steps and the guidance of Full.

    :raises ExportError: the checkpoint's scheduler is none of flow matching.
    """
    name = variant or named_variant(origin)
    if name is not None:
        return name, flow_config(VARIANTS[name].scheduler, VARIANTS[name].shift)
    config = read_json(origin.root, SCHEDULER)
    if "_class_name" not in config or not is_flow(config):
        raise ExportError(f"{origin.root.name}/{SCHEDULER} names no scheduler of flow matching; choose a --variant.")
    return DEFAULT, config


def named_variant(origin: Origin) -> str | None:
    """What a checkpoint's name ends with, if that is a variant. In a cache of the hub the name is two folders above."""
    path = Path(origin.name.partition("@")[0])
    name = path.parent.parent.name if path.parent.name == "snapshots" else path.name
    last = name.lower().rpartition("-")[2]
    return last if last in VARIANTS else None


def _sources(sources: CheckpointSources, checkpoint: weights.HidreamCheckpoint) -> dict[str, SourceCheckpoint]:
    files = (*checkpoint.parts[weights.TRANSFORMER].files, *checkpoint.parts[weights.VAE].files)
    inside = [encoder for encoder in ENCODERS if encoder != "llama" or sources.llama is None]
    words = [file for encoder in inside for file in tokenizers.present(checkpoint, encoder)]
    scheduler = [SCHEDULER] if (checkpoint.root / SCHEDULER).is_file() else []
    found = {"checkpoint": sources.checkpoint.source((*files, *scheduler, *words))}
    if sources.llama is not None:
        found[LLAMA_ROLE] = sources.llama.source(tokenizers.present(checkpoint, "llama"))
    return found


def _resolution(checkpoint: weights.HidreamCheckpoint) -> tuple[int, int]:
    height, width = checkpoint.parts[weights.TRANSFORMER].config.get("max_resolution", (128, 128))
    return int(height), int(width)


def _tokens(checkpoint: weights.HidreamCheckpoint) -> int:
    height, width = _resolution(checkpoint)
    return height * width // PATCH_SIZE**2


def _side(checkpoint: weights.HidreamCheckpoint) -> int:
    """What the VAE was trained at, as long as the transformer has room for it; else the most that it has room for."""
    most = min(_resolution(checkpoint)) * VAE_SCALE_FACTOR
    trained = checkpoint.parts[weights.VAE].config.get("sample_size")
    return trained if isinstance(trained, int) and SIDE_MINIMUM <= trained <= most else most
