"""Stable Diffusion XL in one file, base and refiner, under the names of Stability AI's original code.

The usual configurations are those of https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0 and -refiner-1.0.
"""

from __future__ import annotations

from pathlib import Path

from exporters.checkpoints.single_file.kind import UNET, VAE, Kind, clip_part, open_clip_part
from exporters.files import ROOT

DEMO = ROOT / "checkpoints" / "demo-sdxl-base"
DEMO_REFINER = ROOT / "checkpoints" / "demo-sdxl-refiner"
_FIRST, _SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
BASE = Kind(
    title="checkpoint of the Stable Diffusion XL kind",
    looks="Stable Diffusion XL",
    mark=_SECOND,
    parts=(
        UNET,
        VAE,
        clip_part("text_encoder", "first text encoder", _FIRST),
        open_clip_part("text_encoder_2", "second text encoder", _SECOND),
    ),
    configs=Path(__file__).with_name("single_file_base.json"),
    classes=("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
    demo=DEMO,
    tokenizers={"tokenizer": ("text_encoder", "<|endoftext|>"), "tokenizer_2": ("text_encoder_2", "!")},
)
REFINER = Kind(
    title="refiner of the Stable Diffusion XL kind",
    looks="a refiner of Stable Diffusion XL",
    mark="conditioner.embedders.0.model.",
    parts=(UNET,),  # the text encoder and the VAE are those of the base
    configs=Path(__file__).with_name("single_file_refiner.json"),
    classes=("StableDiffusionXLImg2ImgPipeline",),
    demo=DEMO_REFINER,
)
