"""A checkpoint of SD 1.5's classes with random weights, small enough to be exported in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPTextModel, CLIPTokenizer

from exporters.onnx_export import quiet
from tests.safety_checkers import feature_extractor
from training import networks
from training.tokens import write_tokenizer

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
WIDTH = 32
"""Of the text encoder."""


def make_unet(**changes: Any) -> UNet2DConditionModel:
    """Three levels, so that odd sizes are halved twice; attention in the first and the middle block only."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 16, 32),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**settings, **changes})


def make_vae(**changes: Any) -> AutoencoderKL:
    """Eight pixels per latent along each side."""
    vae = networks.make_vae(**{"widths": (8, 8, 8, 16), "groups": 4, "side": 64, **changes})
    with torch.no_grad():  # else all pictures are grey
        vae.decoder.conv_out.weight.mul_(8)
    return vae


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """77 tokens to 77 x WIDTH."""
    return CLIPTextModel(networks.clip_config(tokenizer, width=WIDTH, layers=2, heads=2, inner=2 * WIDTH))


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of that UNet whose residuals are not zero, as they are before training."""
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16))
    zeros = (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block,
             controlnet.controlnet_cond_embedding.conv_out)  # fmt: skip
    for layer in zeros:
        torch.nn.init.normal_(layer.weight, std=0.2)
    return controlnet


def write_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    half: bool = False,
    unet: Mapping[str, Any] | None = None,
    checker: StableDiffusionSafetyChecker | None = None,
) -> Path:
    """`folder` in the diffusers layout, with the tokenizer as SD 1.5 has it; `half` stores fp16.

    :param unet: changes for `make_unet`.
    :param checker: its safety checker, of `tests.safety_checkers`.
    """
    torch.manual_seed(seed)
    write_tokenizer(folder / "tokenizer")
    with quiet():
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        pipeline = StableDiffusionPipeline(
            vae=make_vae(),
            text_encoder=make_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=make_unet(**(unet or {})),
            scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
            safety_checker=checker,
            feature_extractor=feature_extractor() if checker else None,
            requires_safety_checker=checker is not None,
        )
        if half:
            pipeline.to(torch.float16)
        pipeline.save_pretrained(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    write_tokenizer(folder / "tokenizer")
    return folder


def write_controlnet(folder: Path, *, seed: int = 1) -> Path:
    """A ControlNet for the UNets of `write_checkpoint`."""
    torch.manual_seed(seed)
    with quiet():
        make_controlnet(make_unet()).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change some fields of a JSON file; None takes a field away."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
