"""The family as data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.checkpoints.origin import Origin
from exporters.files import CACHE, ROOT
from training.lora.family import LoraFamily

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.lora.buckets import Fit
    from training.lora.family import Encode


def _origin(name: str) -> Origin:
    from exporters.sd15.command import origin

    return origin(name, ROOT, CACHE)


def _load(folder: Path, part: str) -> Any:
    from exporters.sd15 import weights

    return weights.load(part, weights.read_checkpoint(folder).component(part))


def _made(folder: Path, device: torch.device, **networks: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    from exporters.onnx_export import quiet

    without = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    with quiet():
        return StableDiffusionPipeline.from_pretrained(
            folder,
            **without,
            **networks,
            text_encoder=_load(folder, "text_encoder").to(device),
            requires_safety_checker=False,
            local_files_only=True,
        )


def _pipeline(folder: Path, device: torch.device) -> Any:
    return _made(folder, device, **{part: _load(folder, part).to(device) for part in ("unet", "vae")})


def _encoder(folder: Path, device: torch.device) -> Encode:
    import torch

    pipeline = _made(folder, device, unet=None, vae=None)

    def encode(caption: str, fit: Fit) -> dict[str, Tensor]:
        with torch.no_grad():
            states, _ = pipeline.encode_prompt(caption, device, 1, False)
        return {"states": states[0].float().cpu()}

    return encode


def _arguments(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"encoder_hidden_states": batch["states"]}


FAMILY = LoraFamily(
    name="sd15",
    base_version="sd_v1",
    architecture="stable-diffusion-v1/lora",
    origin=_origin,
    load=_load,
    pipeline=_pipeline,
    encoder=_encoder,
    arguments=_arguments,
)
