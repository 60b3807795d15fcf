"""What the loop needs beside the networks: pipeline.json and the tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.diffusion.schedulers import flow_config, is_flow
from darkroom.pipelines.hidream.checkpoint import ENCODERS, Checkpoint, tokenizer_name
from darkroom.pipelines.hidream.networks import PATCH_SIZE, VAE_SCALE_FACTOR
from darkroom.pipelines.hidream.variants import DEFAULT, VARIANTS
from darkroom.request.fields import SIDE_MINIMUM
from exporters import manifest, onnx_export
from exporters.errors import ExportError
from exporters.files import sha256
from exporters.hidream import tokenizers, weights
from exporters.manifest import Manifest, Source
from exporters.sd15 import preview
from exporters.sd15.export import Job, made_of
from exporters.sd15.origin import Origin
from exporters.sd15.weights import digest, read_json

STAGES = ("read weights", "convert tokenizers", "fit preview", "install")
_SCHEDULER = "scheduler/scheduler_config.json"
_SOURCES = ("pipeline.py", "tokenizers.py")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to make of which checkpoint.

    :param llama: None where Llama lies in the checkpoint itself.
    :param variant: a name of VARIANTS; None = what the checkpoint's name ends with.
    """

    job: Job
    llama: Origin | None
    variant: str | None

    @property
    def exporter(self) -> str:
        """The hash of everything that shapes the files."""
        here = Path(__file__).parent
        variant = self.variant or named_variant(self.job.checkpoint)
        return manifest.exporter_hash([here / name for name in _SOURCES], str(variant), repr(VARIANTS))


def up_to_date(wanted: Wanted) -> Manifest | None:
    """The manifest of the installed export when there is nothing to do, else None. Imports no torch."""
    return made_of(wanted.job, wanted.exporter, {"llama": wanted.llama} if wanted.llama else {})


def export(wanted: Wanted, stage: Callable[[str], None]) -> Manifest:
    """Write the files. `stage` is called with each of STAGES as it begins.

    :raises ExportError: the checkpoint is unfit.
    """
    stage("read weights")
    checkpoint = weights.read_checkpoint(wanted.job.checkpoint.root, wanted.llama.root if wanted.llama else None)
    variant, scheduler = sampling_of(wanted.job.checkpoint, wanted.variant)
    vae = weights.load(weights.VAE, checkpoint.parts[weights.VAE])
    stage("convert tokenizers")
    parts = (*weights.CLIPS, weights.T5, weights.LLAMA)
    words = {
        encoder: tokenizers.convert(checkpoint, encoder, checkpoint.parts[part])
        for encoder, part in zip(ENCODERS, parts, strict=True)
    }
    stage("fit preview")
    fit = preview.fit(vae)
    sources = _sources(wanted, checkpoint)
    stage("install")
    facts = Checkpoint(
        name=Path(wanted.job.checkpoint.name).name if wanted.job.checkpoint.local else wanted.job.checkpoint.name,
        digest=_digest(checkpoint, sources["checkpoint"])[:10],
        side=_side(checkpoint),
        scheduler=scheduler,
        latent_rgb=_shifted(fit.matrix, (vae.config.shift_factor or 0.0) * vae.config.scaling_factor),
        variant=variant,  # type: ignore[arg-type]
        max_tokens=_tokens(checkpoint),
        padding={encoder: one.padding for encoder, one in words.items()},
    )
    contents = {tokenizer_name(encoder): one.json.encode() for encoder, one in words.items()}
    return _install(wanted, {**contents, FILE_NAME: facts.to_json().encode()}, sources, fit.error)


def sampling_of(origin: Origin, variant: str | None) -> tuple[str, dict[str, Any]]:
    """The variant of a checkpoint, and its scheduler_config.json.

    A variant that is asked for, or that the checkpoint's name ends with (HiDream-I1-Dev), has a scheduler of its own.
    Without one the checkpoint's own scheduler is taken, with the steps and the guidance of Full.

    :raises ExportError: the checkpoint's scheduler is none of flow matching.
    """
    name = variant or named_variant(origin)
    if name is not None:
        return name, flow_config(VARIANTS[name].scheduler, VARIANTS[name].shift)
    config = read_json(origin.root, _SCHEDULER)
    if "_class_name" not in config or not is_flow(config):
        raise ExportError(f"{origin.root.name}/{_SCHEDULER} names no scheduler of flow matching; choose a --variant.")
    return DEFAULT, config


def named_variant(origin: Origin) -> str | None:
    """What a checkpoint's name ends with, if that is a variant. In a cache of the hub the name is two folders above."""
    path = Path(origin.name.partition("@")[0])
    name = path.parent.parent.name if path.parent.name == "snapshots" else path.name
    last = name.lower().rpartition("-")[2]
    return last if last in VARIANTS else None


def _sources(wanted: Wanted, checkpoint: weights.Checkpoint) -> dict[str, Source]:
    files = (*checkpoint.parts[weights.TRANSFORMER].files, *checkpoint.parts[weights.VAE].files)
    inside = [encoder for encoder in ENCODERS if encoder != "llama" or wanted.llama is None]
    words = [file for encoder in inside for file in tokenizers.present(checkpoint, encoder)]
    scheduler = [_SCHEDULER] if (checkpoint.root / _SCHEDULER).is_file() else []
    sources = {"checkpoint": wanted.job.checkpoint.source((*files, *scheduler, *words))}
    if wanted.llama is not None:
        sources["llama"] = wanted.llama.source(tokenizers.present(checkpoint, "llama"))
    return sources


def _digest(checkpoint: weights.Checkpoint, source: Source) -> str:
    """The hash of the transformer's weights, which for one file is that of the file."""
    hashes = [source.files[name].sha256 for name in checkpoint.parts[weights.TRANSFORMER].weights]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())


def _resolution(checkpoint: weights.Checkpoint) -> tuple[int, int]:
    height, width = checkpoint.parts[weights.TRANSFORMER].config.get("max_resolution", (128, 128))
    return int(height), int(width)


def _tokens(checkpoint: weights.Checkpoint) -> int:
    height, width = _resolution(checkpoint)
    return height * width // PATCH_SIZE**2


def _side(checkpoint: weights.Checkpoint) -> int:
    """What the VAE was trained at, as long as the transformer has room for it; else the most that it has room for."""
    most = min(_resolution(checkpoint)) * VAE_SCALE_FACTOR
    trained = checkpoint.parts[weights.VAE].config.get("sample_size")
    return trained if isinstance(trained, int) and SIDE_MINIMUM <= trained <= most else most


def _shifted(matrix: list[list[float]], shift: float) -> list[list[float]]:
    """The colours for latents from which `shift` was subtracted, of those for latents without a shift."""
    rows = np.array(matrix)
    constant = rows[-1] + shift * rows[:-1].sum(axis=0)
    shifted: list[list[float]] = [*rows[:-1].tolist(), constant.round(5).tolist()]
    return shifted


def _install(wanted: Wanted, contents: Mapping[str, bytes], sources: dict[str, Source], error: float) -> Manifest:
    import torch

    return manifest.install(
        wanted.job.folder,
        contents,
        exporter=wanted.exporter,
        precision="fp32",
        source=wanted.job.checkpoint.name,
        weights_sha256=digest(*sources.values()),
        opset=onnx_export.OPSET,
        max_error=error,
        error_share=1.0,
        torch=torch.__version__,
        sources=sources,
    )
