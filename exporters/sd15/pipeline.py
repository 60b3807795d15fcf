"""What the loop needs beside the networks: pipeline.json and tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from darkroom.diffusion.schedulers import is_flow
from darkroom.pipelines.sd15.checkpoint import FILE_NAME, TOKENIZER_NAME, Sd15CheckpointInfo
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import GUIDANCE_RANGE, GUIDANCE_SCALE
from exporters import manifest
from exporters.checkpoints import clip_tokenizer, latent_diffusion, preview
from exporters.checkpoints.components import SCHEDULER, weights_digest
from exporters.export import ModelExport, install
from exporters.manifest import Manifest
from exporters.sd15 import weights

STAGES = ("read weights", "convert tokenizer", "fit preview", "install")
_OF_THE_PIPELINE = {"clip_sample": False, "steps_offset": 1}
"""What diffusers' StableDiffusionPipeline sets whatever a checkpoint says (its __init__ in
pipelines/stable_diffusion/pipeline_stable_diffusion.py): latents are no pixels, and have no bounds to be clipped to."""
_MODULES = (
    "exporters.checkpoints.clip_tokenizer",
    "exporters.checkpoints.latent_diffusion",
    "exporters.checkpoints.preview",
    "exporters.checkpoints.tokenizers",
    "exporters.sd15.pipeline",
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
    scheduler = latent_diffusion.read_scheduler(root)
    generation = latent_diffusion.generation_files(root)
    files = (*checkpoint.unet.files, *checkpoint.vae.files, SCHEDULER, *generation, *clip_tokenizer.present(root))
    source = wanted.checkpoint.source(files)
    vae = weights.load("vae", checkpoint.vae)
    stage("convert tokenizer")
    words = clip_tokenizer.convert(root, longest=checkpoint.text_encoder.config.get("max_position_embeddings", 77))
    stage("fit preview")
    fit = preview.fit(vae)
    stage("install")
    facts = Sd15CheckpointInfo(
        name=wanted.checkpoint.title,
        digest=weights_digest(checkpoint.unet, source)[:10],
        side=latent_diffusion.side_of(checkpoint.unet.config, VAE_SCALE_FACTOR),
        scheduler=effective_scheduler(scheduler),
        max_tokens=words.max_tokens,
        guidance_scale=float(latent_diffusion.generation_value(root, "guidance_scale", GUIDANCE_SCALE, GUIDANCE_RANGE)),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        inpaints=latent_diffusion.is_for_inpainting(checkpoint.unet, LATENT_CHANNELS),
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
