"""From checkpoints back to states of training, so that it can go on where only the checkpoints were kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, HiDreamImagePipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from exporters.demo.card import CONTROL, HIDREAM, TEXT
from exporters.demo.hidream_models import PARTS
from exporters.demo.hidream_stage import VAE_STAGE
from exporters.demo.trainer import Report, Run, state_path, write_state
from exporters.demo.unet_stage import LatentScale


def restore(run: Run, checkpoints: Path, report: Report, family: str = "sd15") -> None:
    """Write the states that `export` would make these checkpoints of. The weights are the averaged ones in fp16;
    optimizers, learning rates and budgets begin anew, and what was spent before is only counted for the model card.

    :raises FileExistsError: the state folder holds states already.
    :raises OSError: no checkpoint there.
    """
    stages = _hidream(checkpoints) if family == "hidream" else _sd15(checkpoints)
    for name in stages:
        if state_path(run, name).exists():
            raise FileExistsError(f"{state_path(run, name)} is there already; choose another --state.")
    for name, (folder, modules) in stages.items():
        spent = json.loads((folder / "training.json").read_text())[name]
        write_state(run, name, modules.float().state_dict(), clock=spent)
        report(f"{name}: restored at step {spent['step']}")


def _sd15(checkpoints: Path) -> dict[str, tuple[Path, nn.ModuleDict]]:
    """The modules of each stage, and the folder that says what it has spent."""
    text, control = checkpoints / TEXT, checkpoints / CONTROL
    vae: Any = AutoencoderKL.from_pretrained(text / "vae")
    unet = UNet2DConditionModel.from_pretrained(text / "unet")
    text_encoder = CLIPTextModel.from_pretrained(text / "text_encoder")
    stages = {
        "vae": (text, nn.ModuleDict({"vae": vae})),
        "unet": (text, nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "scale": _scale(vae)})),
    }
    if control.is_dir():
        stages["controlnet"] = (control, nn.ModuleDict({"controlnet": ControlNetModel.from_pretrained(control)}))
    return stages


def _hidream(checkpoints: Path) -> dict[str, tuple[Path, nn.ModuleDict]]:
    folder = checkpoints / HIDREAM
    pipeline = HiDreamImagePipeline.from_pretrained(folder)
    networks = {part: getattr(pipeline, part) for part in PARTS}
    return {
        VAE_STAGE: (folder, nn.ModuleDict({"vae": pipeline.vae})),
        "hidream": (folder, nn.ModuleDict({**networks, "scale": _scale(pipeline.vae)})),
    }


def _scale(vae: Any) -> LatentScale:
    scale = LatentScale()
    scale.factor.copy_(torch.tensor(float(vae.config.scaling_factor)))
    return scale
