"""What the loop needs beside the networks: pipeline.json and tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from darkroom.diffusion.schedulers import is_flow
from darkroom.pipelines.sd15.checkpoint import FILE_NAME, TOKENIZER_NAME, Sd15CheckpointInfo
from darkroom.pipelines.sd15.networks import VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GUIDANCE_RANGE, GUIDANCE_SCALE
from exporters import manifest
from exporters.checkpoints import preview
from exporters.checkpoints.components import SCHEDULER, weights_digest
from exporters.checkpoints.files import read_json
from exporters.errors import ExportError
from exporters.export import ModelExport, install
from exporters.manifest import Manifest
from exporters.sd15 import tokenizer, weights

STAGES = ("read weights", "convert tokenizer", "fit preview", "install")
_OF_THE_PIPELINE = {"clip_sample": False, "steps_offset": 1}
"""What diffusers' StableDiffusionPipeline sets whatever a checkpoint says (its __init__ in
pipelines/stable_diffusion/pipeline_stable_diffusion.py): latents are no pixels, and have no bounds to be clipped to."""
GENERATION = "generation_config.json"
"""A file that a checkpoint may have: {"guidance_scale": 2.0} for requests that name none."""
_MODULES = (
    "exporters.checkpoints.preview",
    "exporters.checkpoints.tokenizers",
    "exporters.sd15.pipeline",
    "exporters.sd15.tokenizer",
)


def current_hash() -> str:
    """The hash of everything that shapes the two files."""
    return manifest.code_hash(_MODULES)


def export(wanted: ModelExport, stage: Callable[[str], None]) -> Manifest:
    """Write both files. `stage` is called with each of STAGES as it begins.

    :raises ExportError: the checkpoint is unfit.
    """
    stage("read weights")
    checkpoint = weights.read_checkpoint(wanted.checkpoint.root)
    root = checkpoint.root
    scheduler = read_json(root, SCHEDULER)
    if "_class_name" not in scheduler:
        raise ExportError(f"{root.name}/{SCHEDULER} names no scheduler class.")
    generation = (GENERATION,) if (root / GENERATION).is_file() else ()
    files = (*checkpoint.unet.files, *checkpoint.vae.files, SCHEDULER, *generation, *tokenizer.present(root))
    source = wanted.checkpoint.source(files)
    vae = weights.load("vae", checkpoint.vae)
    stage("convert tokenizer")
    words = tokenizer.convert(root, longest=checkpoint.text_encoder.config.get("max_position_embeddings", 77))
    stage("fit preview")
    fit = preview.fit(vae)
    stage("install")
    facts = Sd15CheckpointInfo(
        name=wanted.checkpoint.title,
        digest=weights_digest(checkpoint.unet, source)[:10],
        side=_side(checkpoint.unet.config),
        scheduler=effective_scheduler(scheduler),
        max_tokens=words.max_tokens,
        guidance_scale=_guidance_scale(root) if generation else GUIDANCE_SCALE,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        latent_rgb=fit.matrix,
    )
    return install(
        wanted,
        {FILE_NAME: facts.to_json().encode(), TOKENIZER_NAME: words.json.encode()},
        exporter=current_hash(),
        sources={"checkpoint": source},
        max_error=fit.error,
        error_share=1.0,
    )


def effective_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler_config.json with what StableDiffusionPipeline changes in it. Classes without these settings ignore
    them; requests may name another class than the checkpoint's, which has them."""
    return dict(config) if is_flow(config) else {**config, **_OF_THE_PIPELINE}


def _guidance_scale(root: Path) -> float:
    """
    :raises ExportError: it is no number in the range of requests.
    """
    value = read_json(root, GENERATION).get("guidance_scale", GUIDANCE_SCALE)
    low, high = GUIDANCE_RANGE
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ExportError(
            f"{root.name}/{GENERATION}: guidance_scale must be a number from {low:g} to {high:g}; got {value!r}."
        )
    return float(value)


def _side(unet: dict[str, Any]) -> int:
    size = unet.get("sample_size") or 64
    return int(size if isinstance(size, int) else size[0]) * VAE_SCALE_FACTOR
