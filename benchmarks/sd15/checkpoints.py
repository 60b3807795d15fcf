"""Checkpoints of the real classes with random weights: as fast as trained ones, and they need no download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from exporters.onnx_export import quiet
from training.demo.sd15 import models as demo
from training.networks import clip_config
from training.networks import make_vae as make_vae_of
from training.tokens import write_tokenizer

Size = Literal["demo", "full"]
Model = TypeVar("Model")


def write_checkpoint(
    folder: Path,
    *,
    size: Size,
    dtype: torch.dtype,
    device: str = "cpu",
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a text-to-image checkpoint in the diffusers folder layout; the same weights at every call on a device.

    :param size: "demo" = the shape of checkpoints/demo-sd15; "full" = runwayml/stable-diffusion-v1-5.
    :param dtype: of the weights in the files.
    :param device: where the weights are drawn; a GPU takes seconds for the full size, a CPU some tens of them.
    :param report: told each part as it begins.
    """
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    torch.manual_seed(15)

    def made(name: str, make: Callable[[], Model]) -> Any:
        report(name)
        with torch.device(device), quiet():
            model: Any = make()
            return model.eval().to(device="cpu", dtype=dtype)

    full = size == "full"
    parts = {
        "unet": made("unet", make_unet if full else demo.make_unet),
        "vae": made("vae", make_vae if full else make_vae_of),
        "text_encoder": made(
            "text encoder", lambda: make_text_encoder(tokenizer) if full else demo.make_text_encoder(tokenizer)
        ),
    }
    report("write")
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=demo.inference_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with quiet():
        pipeline.save_pretrained(folder, safe_serialization=True)
    write_tokenizer(folder / "tokenizer")  # vocab.json and merges.txt too, which older readers look for


def make_unet() -> UNet2DConditionModel:
    """unet/config.json of runwayml/stable-diffusion-v1-5: 860 M weights."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        cross_attention_dim=768,
        attention_head_dim=8,
        norm_num_groups=32,
    )


def make_vae() -> AutoencoderKL:
    """vae/config.json of runwayml/stable-diffusion-v1-5: 84 M weights."""
    return make_vae_of(widths=(128, 256, 512, 512), layers=2, groups=32, side=512)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """text_encoder/config.json of runwayml/stable-diffusion-v1-5, CLIP ViT-L/14's: 123 M weights.

    The vocabulary has its 49408 entries; the ids of the special tokens are those of `tokenizer`.
    """
    config = clip_config(tokenizer, width=768, layers=12, heads=12, vocab_size=49408, hidden_act="quick_gelu")
    return CLIPTextModel(config)
