"""Write trained states as the checkpoints of the family, and read them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from torch import nn

from darkroom.files import write_atomically
from exporters.checkpoints.latent_diffusion import GENERATION
from training.dataset import make_tokenizer
from training.demo.sdxl import models
from training.demo.sdxl.begin import smaller_checkpoint
from training.demo.sdxl.card import BASE as BASE_FOLDER
from training.demo.sdxl.card import GUIDANCE
from training.demo.sdxl.card import REFINER as REFINER_FOLDER
from training.demo.sdxl.family import BASE, REFINER
from training.export import load_as_fp32, to_half, write_training
from training.trainer import TrainingRun, averaged_weights, state_path
from training.vae_stage import scale_of


def save(run: TrainingRun, folder: Path) -> None:
    """Write demo-sdxl-base into `folder`, and demo-sdxl-refiner where a refiner was trained.

    :raises FileNotFoundError: the base was not trained.
    """
    trained = averaged_weights(run, BASE)
    vae = smaller_checkpoint()["vae"]
    assert isinstance(vae, AutoencoderKL)
    vae.register_to_config(scaling_factor=float(trained["scale"]["factor"]))
    tokenizer = make_tokenizer()
    parts = {
        "unet": models.make_unet(),
        "text_encoder": models.make_text_encoder(tokenizer),
        "text_encoder_2": models.make_text_encoder_2(tokenizer),
    }
    for name, model in parts.items():
        model.load_state_dict(trained[name])
    for model in (vae, *parts.values()):
        to_half(model)
    shared = {"tokenizer_2": tokenizer, "vae": vae, "scheduler": models.inference_scheduler()}
    base = StableDiffusionXLPipeline(
        **parts, **shared, tokenizer=tokenizer, force_zeros_for_empty_prompt=True, add_watermarker=False
    )
    _write(base, folder / BASE_FOLDER, ("text_encoder", "text_encoder_2"))
    write_training(run, folder / BASE_FOLDER, (BASE,))
    if state_path(run, REFINER).is_file():
        unet = models.make_refiner()
        unet.load_state_dict(averaged_weights(run, REFINER)["unet"])
        to_half(unet)
        refiner = StableDiffusionXLImg2ImgPipeline(
            **shared,
            unet=unet,
            text_encoder=None,
            text_encoder_2=parts["text_encoder_2"],
            tokenizer=None,
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
        _write(refiner, folder / REFINER_FOLDER, ("text_encoder_2",))
        write_training(run, folder / REFINER_FOLDER, (REFINER,))


def _write(pipeline: Any, folder: Path, encoders: tuple[str, ...]) -> None:
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name in encoders:
        load_as_fp32(folder / name / "config.json")
    write_atomically(folder / GENERATION, (json.dumps({"guidance_scale": GUIDANCE}) + "\n").encode())


def load(checkpoints: Path) -> dict[str, tuple[Path, nn.ModuleDict]]:
    """The modules of each stage, and the folder that says what it has spent."""
    folder, refiner = checkpoints / BASE_FOLDER, checkpoints / REFINER_FOLDER
    base = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    parts = {name: getattr(base, name) for name in ("unet", "text_encoder", "text_encoder_2")}
    stages = {BASE: (folder, nn.ModuleDict({**parts, "scale": scale_of(base.vae)}))}
    if refiner.is_dir():
        pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, add_watermarker=False)
        stages[REFINER] = (refiner, nn.ModuleDict({"unet": pipeline.unet}))
    return stages


def load_pipeline(folder: Path) -> Any:
    """diffusers' pipeline of the base, for images of the demo world."""
    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
