"""Write trained states as the checkpoints of the family, and read them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from darkroom.files import write_atomically
from exporters.checkpoints.latent_diffusion import GENERATION
from training.dataset import make_tokenizer
from training.demo.sd15.card import CONTROL, GUIDANCE, TEXT
from training.demo.sd15.models import inference_scheduler, make_controlnet, make_text_encoder, make_unet
from training.export import load_as_fp32, to_half, write_training
from training.networks import make_vae
from training.tokens import write_tokenizer
from training.trainer import TrainingRun, averaged_weights, state_path
from training.vae_stage import scale_of


def save(run: TrainingRun, folder: Path) -> None:
    """Write demo-sd15 into `folder`, and demo-sd15-canny where a ControlNet was trained.

    :raises FileNotFoundError: a stage that is needed was not trained.
    """
    _save_pipeline(run, folder / TEXT)
    if state_path(run, "controlnet").is_file():
        _save_controlnet(run, folder / CONTROL)


def _save_pipeline(run: TrainingRun, folder: Path) -> None:
    tokenizer = make_tokenizer()
    vae, unet, text_encoder = make_vae(), make_unet(), make_text_encoder(tokenizer)
    trained = averaged_weights(run, "unet")
    vae.load_state_dict(averaged_weights(run, "vae")["vae"])
    vae.register_to_config(scaling_factor=float(trained["scale"]["factor"]))
    unet.load_state_dict(trained["unet"])
    text_encoder.load_state_dict(trained["text_encoder"])
    for model in (vae, unet, text_encoder):
        to_half(model)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=inference_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    load_as_fp32(folder / "text_encoder" / "config.json")
    write_tokenizer(folder / "tokenizer")  # vocab.json and merges.txt too, which older readers look for
    write_atomically(folder / GENERATION, (json.dumps({"guidance_scale": GUIDANCE}) + "\n").encode())
    write_training(run, folder, ("vae", "unet"))


def _save_controlnet(run: TrainingRun, folder: Path) -> None:
    controlnet = make_controlnet(make_unet())
    controlnet.load_state_dict(averaged_weights(run, "controlnet")["controlnet"])
    to_half(controlnet)
    controlnet.save_pretrained(folder, safe_serialization=True)
    write_training(run, folder, ("controlnet",))


def load(checkpoints: Path) -> dict[str, tuple[Path, nn.ModuleDict]]:
    """The modules of each stage, and the folder that says what it has spent."""
    text, control = checkpoints / TEXT, checkpoints / CONTROL
    vae: Any = AutoencoderKL.from_pretrained(text / "vae")
    unet = UNet2DConditionModel.from_pretrained(text / "unet")
    text_encoder = CLIPTextModel.from_pretrained(text / "text_encoder")
    stages = {
        "vae": (text, nn.ModuleDict({"vae": vae})),
        "unet": (text, nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "scale": scale_of(vae)})),
    }
    if control.is_dir():
        stages["controlnet"] = (control, nn.ModuleDict({"controlnet": ControlNetModel.from_pretrained(control)}))
    return stages


def load_pipeline(folder: Path) -> Any:
    """diffusers' pipeline of the checkpoint."""
    return StableDiffusionPipeline.from_pretrained(folder)
