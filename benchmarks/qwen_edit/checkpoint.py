"""A checkpoint of Qwen-Image-Edit's classes with random weights, as large as the demo's: 12 M weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import QwenImageEditPlusPipeline
from torch import nn

from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.onnx_export import quiet
from training.demo.qwen_edit import models
from training.demo.qwen_edit.checkpoint import write_processor
from training.demo.qwen_edit.tokens import make_tokenizer
from training.render import SIDE


def write_checkpoint(folder: Path) -> None:
    """Write the checkpoint in the diffusers layout; the same weights at every call."""
    torch.manual_seed(25)
    vae, networks = models.make_vae(), models.make_networks()
    with torch.no_grad():
        for name, weight in networks[models.TRANSFORMER].named_parameters():
            if not weight.any():  # gates and the last layer begin as zeros, and the image would depend on nothing
                nn.init.normal_(weight, std=0.1 if name.endswith("weight") else 0.01)
    pipeline = QwenImageEditPlusPipeline(
        vae=vae, tokenizer=make_tokenizer(), processor=None, scheduler=models.make_scheduler(), **networks
    )
    with quiet():
        pipeline.save_pretrained(folder, safe_serialization=True)
        write_processor(folder)
    areas = {"reference_area": SIDE**2}  # the other one is that of diffusers
    (folder / GENERATION).write_text(json.dumps(areas))
