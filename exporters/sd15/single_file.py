"""Stable Diffusion 1.5 in one file, under the names of CompVis' original code.

The usual configuration is that of https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5.
"""

from __future__ import annotations

from pathlib import Path

from exporters.checkpoints.single_file.kind import UNET, VAE, Kind, clip_part
from exporters.files import ROOT

DEMO = ROOT / "checkpoints" / "demo-sd15"
_TEXT = "cond_stage_model.transformer."
KIND = Kind(
    title="checkpoint of the Stable Diffusion 1.5 kind",
    looks="Stable Diffusion 1.5",
    mark=_TEXT,
    parts=(UNET, VAE, clip_part("text_encoder", "text encoder", _TEXT)),
    configs=Path(__file__).with_name("single_file.json"),
    classes=("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
    demo=DEMO,
    tokenizers={"tokenizer": ("text_encoder", "<|endoftext|>")},
)
