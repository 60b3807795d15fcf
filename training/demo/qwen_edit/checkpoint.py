"""Write trained states as the checkpoint of the family, and read it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageEditPlusPipeline
from torch import nn

from darkroom.files import write_atomically
from exporters.checkpoints.latent_diffusion import GENERATION
from training.demo.qwen_edit import models
from training.demo.qwen_edit.card import FOLDER, GUIDANCE, STEPS
from training.demo.qwen_edit.models import PARTS, TEXT_ENCODER
from training.demo.qwen_edit.pipeline import PROCESSOR, load_pipeline, make_image_processor
from training.demo.qwen_edit.stage import STAGE, VAE_STAGE, LatentStatistics
from training.demo.qwen_edit.tokens import make_tokenizer
from training.export import load_as_fp32, to_half, write_training
from training.render import SIDE
from training.trainer import TrainingRun, averaged_weights

CONDITION_SIDE = 64
"""Side in pixels of the condition image that the service passes to the image processor: a multiple of 32."""


BEGUN = Path(__file__).parent / "begun"
"""What is trained so far: `python -m training restore --family qwen_edit --checkpoints` with this folder goes on from
there."""
_INDEX = "model_index.json"


def save(run: TrainingRun, output: Path) -> None:
    """Write demo-qwen-edit into `output`.

    :raises FileNotFoundError: a stage that is needed was not trained.
    """
    folder = output / FOLDER
    trained = averaged_weights(run, STAGE)
    vae, networks = models.make_vae(), models.make_networks()
    vae.load_state_dict(averaged_weights(run, VAE_STAGE)["vae"])
    statistics = trained["statistics"]
    vae.register_to_config(latents_mean=statistics["mean"].tolist(), latents_std=statistics["deviation"].tolist())
    for part, model in networks.items():
        model.load_state_dict(trained[part])
    for model in (vae, *networks.values()):
        to_half(model)
    pipeline = QwenImageEditPlusPipeline(
        vae=vae, tokenizer=make_tokenizer(), processor=None, scheduler=models.make_scheduler(), **networks
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    load_as_fp32(folder / TEXT_ENCODER / "config.json")
    write_processor(folder)
    generation = {
        "true_guidance_scale": GUIDANCE,
        "steps": STEPS,
        "condition_area": CONDITION_SIDE**2,
        "reference_area": SIDE**2,
    }
    write_atomically(folder / GENERATION, (json.dumps(generation, indent=2) + "\n").encode())
    write_training(run, folder, (VAE_STAGE, STAGE))


def write_processor(folder: Path) -> None:
    """Write the processor as that of Qwen/Qwen-Image-Edit-2509, which cannot be made without torchvision."""
    make_image_processor().save_pretrained(folder / PROCESSOR)
    make_tokenizer().save_pretrained(folder / PROCESSOR)
    path = folder / PROCESSOR / "preprocessor_config.json"
    named = {"image_processor_type": "Qwen2VLImageProcessor", PROCESSOR + "_class": "Qwen2VLProcessor"}
    _change(path, named)
    _change(folder / _INDEX, {PROCESSOR: ["transformers", "Qwen2VLProcessor"]})


def _change(path: Path, values: dict[str, Any]) -> None:
    """Set values of a JSON file."""
    write_atomically(path, (json.dumps({**json.loads(path.read_text()), **values}, indent=2) + "\n").encode())


def load(checkpoints: Path) -> dict[str, tuple[Path, nn.ModuleDict]]:
    """The modules of each stage, and the folder that says what it has spent."""
    folder = checkpoints / FOLDER
    pipeline = load_pipeline(folder)
    statistics = LatentStatistics()
    statistics.mean.copy_(torch.tensor(pipeline.vae.config.latents_mean))
    statistics.deviation.copy_(torch.tensor(pipeline.vae.config.latents_std))
    networks = {part: getattr(pipeline, part) for part in PARTS}
    return {
        VAE_STAGE: (folder, nn.ModuleDict({"vae": pipeline.vae})),
        STAGE: (folder, nn.ModuleDict({**networks, "statistics": statistics})),
    }
