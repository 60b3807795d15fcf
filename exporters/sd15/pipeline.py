"""What the loop needs beside the networks: pipeline.json and tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from darkroom.diffusion.schedulers import is_flow
from darkroom.pipelines.sd15.checkpoint import FILE_NAME, TOKENIZER_NAME, Checkpoint
from darkroom.pipelines.sd15.networks import VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GUIDANCE_RANGE, GUIDANCE_SCALE
from exporters import manifest, onnx_export
from exporters.errors import ExportError
from exporters.files import sha256
from exporters.manifest import Manifest, Source
from exporters.sd15 import preview, tokenizer, weights
from exporters.sd15.export import Job
from exporters.sd15.weights import Component

STAGES = ("read weights", "convert tokenizer", "fit preview", "install")
_SCHEDULER = "scheduler/scheduler_config.json"
_OF_THE_PIPELINE = {"clip_sample": False, "steps_offset": 1}
"""What diffusers' StableDiffusionPipeline sets whatever a checkpoint says (its __init__ in
pipelines/stable_diffusion/pipeline_stable_diffusion.py): latents are no pixels, and have no bounds to be clipped to."""
GENERATION = "generation_config.json"
"""A file that a checkpoint may have: {"guidance_scale": 2.0} for requests that name none."""
_SOURCES = ("pipeline.py", "tokenizer.py", "preview.py")


def current_hash() -> str:
    """The hash of everything that shapes the two files."""
    here = Path(__file__).parent
    return manifest.exporter_hash(here / name for name in _SOURCES)


def export(job: Job, stage: Callable[[str], None]) -> Manifest:
    """Write both files. `stage` is called with each of STAGES as it begins.

    :raises ExportError: the checkpoint is unfit.
    """
    stage("read weights")
    checkpoint = weights.read_checkpoint(job.checkpoint.root)
    root = checkpoint.root
    scheduler = weights.read_json(root, _SCHEDULER)
    if "_class_name" not in scheduler:
        raise ExportError(f"{root.name}/{_SCHEDULER} names no scheduler class.")
    generation = (GENERATION,) if (root / GENERATION).is_file() else ()
    files = (*checkpoint.unet.files, *checkpoint.vae.files, _SCHEDULER, *generation, *tokenizer.present(root))
    source = job.checkpoint.source(files)
    vae = weights.load("vae", checkpoint.vae)
    stage("convert tokenizer")
    words = tokenizer.convert(root, longest=checkpoint.text_encoder.config.get("max_position_embeddings", 77))
    stage("fit preview")
    fit = preview.fit(vae)
    stage("install")
    facts = Checkpoint(
        name=job.checkpoint.title,
        digest=_digest(checkpoint.unet, source)[:10],
        side=_side(checkpoint.unet.config),
        scheduler=effective_scheduler(scheduler),
        max_tokens=words.max_tokens,
        guidance_scale=_guidance_scale(root) if generation else GUIDANCE_SCALE,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        latent_rgb=fit.matrix,
    )
    return _install(job, {FILE_NAME: facts.to_json().encode(), TOKENIZER_NAME: words.json.encode()}, source, fit.error)


def effective_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler_config.json with what StableDiffusionPipeline changes in it. Classes without these settings ignore
    them; requests may name another class than the checkpoint's, which has them."""
    return dict(config) if is_flow(config) else {**config, **_OF_THE_PIPELINE}


def _digest(unet: Component, source: Source) -> str:
    """The hash of the UNet's weights, which for one file is that of the file."""
    hashes = [source.files[name].sha256 for name in unet.weights]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())


def _guidance_scale(root: Path) -> float:
    """
    :raises ExportError: it is no number in the range of requests.
    """
    value = weights.read_json(root, GENERATION).get("guidance_scale", GUIDANCE_SCALE)
    low, high = GUIDANCE_RANGE
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ExportError(
            f"{root.name}/{GENERATION}: guidance_scale must be a number from {low:g} to {high:g}; got {value!r}."
        )
    return float(value)


def _side(unet: dict[str, Any]) -> int:
    size = unet.get("sample_size") or 64
    return int(size if isinstance(size, int) else size[0]) * VAE_SCALE_FACTOR


def _install(job: Job, contents: dict[str, bytes], source: Source, error: float) -> Manifest:
    import torch

    return manifest.install(
        job.folder,
        contents,
        exporter=current_hash(),
        precision="fp32",
        source=job.checkpoint.name,
        weights_sha256=weights.digest(source),
        opset=onnx_export.OPSET,
        max_error=error,
        error_share=1.0,
        torch=torch.__version__,
        sources={"checkpoint": source},
    )
