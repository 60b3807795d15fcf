"""Write trained states as the checkpoint of the family, and read it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import HiDreamImagePipeline
from torch import nn

from training.demo.hidream import models
from training.demo.hidream.card import FOLDER
from training.demo.hidream.models import PARTS
from training.demo.hidream.stage import STAGE, VAE_STAGE
from training.demo.hidream.tokens import Words
from training.export import load_as_fp32, to_half, write_training
from training.render import SIDE
from training.trainer import TrainingRun, averaged_weights
from training.vae_stage import scale_of


def save(run: TrainingRun, output: Path) -> None:
    """Write demo-hidream into `output`.

    :raises FileNotFoundError: a stage that is needed was not trained.
    """
    folder = output / FOLDER
    words = Words()
    vae, networks = models.make_vae(), models.make_networks(words)
    trained = averaged_weights(run, STAGE)
    vae.load_state_dict(averaged_weights(run, VAE_STAGE)["vae"])
    vae.register_to_config(scaling_factor=float(trained["scale"]["factor"]))
    for part, model in networks.items():
        model.load_state_dict(trained[part])
    for model in (vae, *networks.values()):
        to_half(model)
    pipeline = HiDreamImagePipeline(
        vae=vae,
        tokenizer=words.clip,
        tokenizer_2=words.clip,
        tokenizer_3=words.t5,
        tokenizer_4=words.llama,
        scheduler=models.make_scheduler(),
        **networks,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in models.ENCODERS:
        load_as_fp32(folder / part / "config.json")
    write_training(run, folder, (VAE_STAGE, STAGE))


def load(checkpoints: Path) -> dict[str, tuple[Path, nn.ModuleDict]]:
    """The modules of each stage, and the folder that says what it has spent."""
    folder = checkpoints / FOLDER
    pipeline = HiDreamImagePipeline.from_pretrained(folder)
    networks = {part: getattr(pipeline, part) for part in PARTS}
    return {
        VAE_STAGE: (folder, nn.ModuleDict({"vae": pipeline.vae})),
        STAGE: (folder, nn.ModuleDict({**networks, "scale": scale_of(pipeline.vae)})),
    }


def load_pipeline(folder: Path) -> Any:
    """diffusers' pipeline of the checkpoint, for images of the demo world."""
    pipeline = HiDreamImagePipeline.from_pretrained(folder)
    pipeline.default_sample_size = SIDE // pipeline.vae_scale_factor  # it scales every image to this area
    return pipeline
