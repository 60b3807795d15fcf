"""What the loop needs beside the networks: pipeline.json and the two tokenizers."""

from __future__ import annotations

import re

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.pipelines.sdxl.checkpoint import (
    GUIDANCE_SCALE,
    LATENT_CHANNELS,
    STEPS,
    TOKENIZERS,
    VAE_SCALE_FACTOR,
    SdxlCheckpointInfo,
)
from darkroom.request.fields import GUIDANCE_RANGE
from exporters import manifest
from exporters.checkpoints import clip_tokenizer, latent_diffusion, preview
from exporters.checkpoints.clip_tokenizer import Converted
from exporters.checkpoints.components import INDEX, SCHEDULER, weights_digest
from exporters.export import ModelExport, install
from exporters.manifest import Manifest
from exporters.sdxl import weights
from exporters.tasks import Stage

STAGES = ("read weights", "convert tokenizers", "fit preview", "install")
TOKENIZER_FOLDERS = ("tokenizer", "tokenizer_2")
_MODULES = (
    "exporters.checkpoints.clip_tokenizer",
    "exporters.checkpoints.latent_diffusion",
    "exporters.checkpoints.preview",
    "exporters.checkpoints.tokenizers",
    "exporters.sdxl.pipeline",
)
_STEPS_RANGE = (1, 1000)
_DISTILLED = (
    (re.compile(r"lightning.*?([248])[ _-]?steps?", re.IGNORECASE), None),
    (re.compile(r"lightning", re.IGNORECASE), 4),
    (re.compile(r"turbo", re.IGNORECASE), 1),
)
"""Names of checkpoints that were distilled to few steps and no guidance, with their steps; None = as the name says.
Sources: ByteDance/SDXL-Lightning and stabilityai/sdxl-turbo, their model cards."""


def current_hash() -> str:
    """The hash of everything that shapes the files."""
    return manifest.code_hash(_MODULES)


def export(wanted: ModelExport, stage: Stage) -> Manifest:
    """Write the files. `stage` is called with each of STAGES as it begins.

    :raises ExportError: the checkpoint is unfit.
    """
    stage("read weights")
    checkpoint = weights.read_checkpoint(wanted.checkpoint.root)
    root, unet = checkpoint.root, checkpoint.parts[weights.UNET]
    scheduler = latent_diffusion.read_scheduler(root)
    files = [*unet.files, *checkpoint.parts[weights.VAE].files, INDEX, SCHEDULER]
    files += latent_diffusion.generation_files(root)
    files += [file for folder in TOKENIZER_FOLDERS for file in clip_tokenizer.present(root, folder)]
    source = wanted.checkpoint.source(tuple(files))
    steps, guidance_scale = usual_sampling(wanted.checkpoint.title)
    vae = weights.load(weights.VAE, checkpoint.parts[weights.VAE])
    stage("convert tokenizers")
    words = _tokenizers(checkpoint)
    stage("fit preview")
    fit = preview.fit(vae)
    stage("install")
    facts = SdxlCheckpointInfo(
        name=wanted.checkpoint.title,
        digest=weights_digest(unet, source)[:10],
        side=latent_diffusion.side_of(unet.config, VAE_SCALE_FACTOR),
        scheduler=scheduler,
        latent_rgb=fit.matrix,
        steps=int(latent_diffusion.generation_value(root, "steps", steps, _STEPS_RANGE)),
        guidance_scale=latent_diffusion.generation_value(root, "guidance_scale", guidance_scale, GUIDANCE_RANGE),
        force_zeros_for_empty_prompt=bool(checkpoint.index.get("force_zeros_for_empty_prompt", True)),
        tokens=[_special(one) for one in words],
        inpaints=latent_diffusion.is_for_inpainting(unet, LATENT_CHANNELS),
    )
    contents = {name: one.json.encode() for name, one in zip(TOKENIZERS, words, strict=True)}
    return install(
        wanted,
        {**contents, FILE_NAME: facts.to_json().encode()},
        exporter=current_hash(),
        sources={"checkpoint": source},
        max_error=fit.error,
        error_share=1.0,
    )


def _tokenizers(checkpoint: weights.SdxlCheckpoint) -> list[Converted]:
    return [
        clip_tokenizer.convert(
            checkpoint.root, folder, longest=checkpoint.parts[encoder].config.get("max_position_embeddings", 77)
        )
        for folder, encoder in zip(TOKENIZER_FOLDERS, weights.TEXT_ENCODERS, strict=True)
    ]


def _special(words: Converted) -> dict[str, int]:
    """The fields of a `ClipTokens`."""
    return {
        "max_tokens": words.max_tokens,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def usual_sampling(title: str) -> tuple[int, float]:
    """Steps and guidance scale of requests that name none, by the name of the checkpoint."""
    for pattern, steps in _DISTILLED:
        if found := pattern.search(title):
            return (int(found[1]) if steps is None else steps), 0.0
    return STEPS, GUIDANCE_SCALE
