"""From checkpoints back to states of training, so that it can go on where only the checkpoints were kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from exporters.demo.card import CONTROL, TEXT
from exporters.demo.trainer import Report, Run, state_path, write_state


def restore(run: Run, checkpoints: Path, report: Report) -> None:
    """Write the states that `export` would make these checkpoints of. The optimizers begin anew, and the weights are
    the averaged ones in fp16; steps and time that were spent count as before.

    :raises FileExistsError: the state folder holds states already.
    :raises OSError: no checkpoint there.
    """
    text, control = checkpoints / TEXT, checkpoints / CONTROL
    vae: Any = AutoencoderKL.from_pretrained(text / "vae")
    scale = nn.Module()
    scale.register_buffer("factor", torch.tensor(float(vae.config.scaling_factor)))
    unet = UNet2DConditionModel.from_pretrained(text / "unet")
    text_encoder = CLIPTextModel.from_pretrained(text / "text_encoder")
    stages = {
        "vae": nn.ModuleDict({"vae": vae}),
        "unet": nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "scale": scale}),
    }
    if control.is_dir():
        stages["controlnet"] = nn.ModuleDict({"controlnet": ControlNetModel.from_pretrained(control)})
    for name in stages:
        if state_path(run, name).exists():
            raise FileExistsError(f"{state_path(run, name)} is there already; choose another --state.")
    for name, modules in stages.items():
        folder = control if name == "controlnet" else text
        spent = json.loads((folder / "training.json").read_text())[name]
        write_state(run, name, modules.float().state_dict(), clock=spent)
        report(f"{name}: restored at step {spent['step']}")
