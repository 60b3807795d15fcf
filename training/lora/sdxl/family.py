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
    from exporters.sdxl.command import origin

    return origin(name, ROOT, CACHE)


def _load(folder: Path, part: str) -> Any:
    from exporters.sdxl import weights

    return weights.load(part, weights.read_checkpoint(folder).parts[part])


def _made(folder: Path, device: torch.device, **networks: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    from exporters.onnx_export import quiet
    from exporters.sdxl.weights import TEXT_ENCODERS

    encoders = {name: _load(folder, name).to(device) for name in TEXT_ENCODERS}
    with quiet():
        return StableDiffusionXLPipeline.from_pretrained(
            folder, **networks, **encoders, add_watermarker=False, local_files_only=True
        )


def _pipeline(folder: Path, device: torch.device) -> Any:
    return _made(folder, device, **{part: _load(folder, part).to(device) for part in ("unet", "vae")})


def _encoder(folder: Path, device: torch.device) -> Encode:
    import torch

    pipeline = _made(folder, device, unet=None, vae=None)

    def encode(caption: str, fit: Fit) -> dict[str, Tensor]:
        with torch.no_grad():
            states, _, pooled, _ = pipeline.encode_prompt(caption, device=device, do_classifier_free_guidance=False)
        # Podell et al. 2023, section 2.2: the size before the resize, the corner of the crop, the size that is shown.
        numbers = (*fit.original[::-1], *fit.corner[::-1], *fit.size[::-1])
        ids = torch.tensor(numbers, dtype=torch.float32)
        return {"states": states[0].float().cpu(), "pooled": pooled[0].float().cpu(), "time_ids": ids}

    return encode


def _arguments(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    added = {"text_embeds": batch["pooled"], "time_ids": batch["time_ids"]}
    return {"encoder_hidden_states": batch["states"], "added_cond_kwargs": added}


FAMILY = LoraFamily(
    name="sdxl",
    base_version="sdxl_base_v1-0",
    architecture="stable-diffusion-xl-v1-base/lora",
    origin=_origin,
    load=_load,
    pipeline=_pipeline,
    encoder=_encoder,
    arguments=_arguments,
)
