"""Writes the trained networks as checkpoints in the diffusers folder layout."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import HiDreamImagePipeline, StableDiffusionPipeline
from torch import nn

from darkroom.files import write_atomically
from exporters.demo import hidream_models
from exporters.demo.card import CONTROL, GUIDANCE, HIDREAM, TEXT, write_cards
from exporters.demo.dataset import make_tokenizer
from exporters.demo.hidream_stage import VAE_STAGE
from exporters.demo.hidream_tokens import Words
from exporters.demo.models import inference_scheduler, make_controlnet, make_text_encoder, make_unet, make_vae
from exporters.demo.tokens import write_tokenizer
from exporters.demo.trainer import Report, Run, averaged_weights, state_path
from exporters.sd15.pipeline import GENERATION


def export(run: Run, output: Path, report: Report, family: str = "sd15") -> None:
    """Write the checkpoints of a family in fp16: `output`/demo-sd15, and `output`/demo-sd15-canny where a ControlNet
    was trained; or `output`/demo-hidream.

    :raises FileNotFoundError: a stage that is needed was not trained.
    """
    with tempfile.TemporaryDirectory(dir=_made(output), prefix=".demo-") as name:
        work = Path(name)
        if family == "hidream":
            _save_hidream(run, work / HIDREAM)
        else:
            _save_pipeline(run, work / TEXT)
            if state_path(run, "controlnet").is_file():
                _save_controlnet(run, work / CONTROL)
        for made in sorted(work.iterdir()):
            _replace(output / made.name, made)
            size = sum(file.stat().st_size for file in (output / made.name).rglob("*") if file.is_file())
            report(f"{made.name}: {size:,} bytes")
    write_cards(output)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_pipeline(run: Run, folder: Path) -> None:
    tokenizer = make_tokenizer()
    vae, unet, text_encoder = make_vae(), make_unet(), make_text_encoder(tokenizer)
    trained = averaged_weights(run, "unet")
    vae.load_state_dict(averaged_weights(run, "vae")["vae"])
    vae.register_to_config(scaling_factor=float(trained["scale"]["factor"]))
    unet.load_state_dict(trained["unet"])
    text_encoder.load_state_dict(trained["text_encoder"])
    for model in (vae, unet, text_encoder):
        _to_half(model)
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
    _load_as_fp32(folder / "text_encoder" / "config.json")
    write_tokenizer(folder / "tokenizer")  # vocab.json and merges.txt too, which older readers look for
    write_atomically(folder / GENERATION, (json.dumps({"guidance_scale": GUIDANCE[TEXT]}) + "\n").encode())
    _write_training(run, folder, ("vae", "unet"))


def _save_hidream(run: Run, folder: Path) -> None:
    words = Words()
    vae, networks = hidream_models.make_vae(), hidream_models.make_networks(words)
    trained = averaged_weights(run, "hidream")
    vae.load_state_dict(averaged_weights(run, VAE_STAGE)["vae"])
    vae.register_to_config(scaling_factor=float(trained["scale"]["factor"]))
    for part, model in networks.items():
        model.load_state_dict(trained[part])
    for model in (vae, *networks.values()):
        _to_half(model)
    pipeline = HiDreamImagePipeline(
        vae=vae,
        tokenizer=words.clip,
        tokenizer_2=words.clip,
        tokenizer_3=words.t5,
        tokenizer_4=words.llama,
        scheduler=hidream_models.make_scheduler(),
        **networks,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in hidream_models.ENCODERS:
        _load_as_fp32(folder / part / "config.json")
    _write_training(run, folder, (VAE_STAGE, "hidream"))


def _load_as_fp32(config: Path) -> None:
    """Say fp32 in a transformers config: what reads it loads that type, and diffusers loads its own models so too."""
    content = json.loads(config.read_text())
    content["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2) + "\n")


def _save_controlnet(run: Run, folder: Path) -> None:
    controlnet = make_controlnet(make_unet())
    controlnet.load_state_dict(averaged_weights(run, "controlnet")["controlnet"])
    _to_half(controlnet)
    controlnet.save_pretrained(folder, safe_serialization=True)
    _write_training(run, folder, ("controlnet",))


def _to_half(model: nn.Module) -> None:
    """To fp16, in place.

    :raises ValueError: a weight does not fit.
    """
    model.half()
    if not all(torch.isfinite(value).all() for value in model.state_dict().values()):
        raise ValueError(f"a weight of {type(model).__name__} does not fit in fp16.")


def _write_training(run: Run, folder: Path, stages: tuple[str, ...]) -> None:
    """Note what training has spent, for the model card."""
    clocks = {}
    for stage in stages:
        state = torch.load(state_path(run, stage), map_location="cpu", weights_only=True)
        clocks[stage] = {**state["clock"], "seed": state["seed"]}
    (folder / "training.json").write_text(json.dumps(clocks, indent=2) + "\n")


def _replace(target: Path, made: Path) -> None:
    """Put a new folder in the place of an old one; measurements of the old weights go with them."""
    old = made.with_name(f"old-{target.name}")
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)
