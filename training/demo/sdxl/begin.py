"""Initializes the base with the weights of the smaller demo checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from exporters.files import ROOT
from training.family import families


def smaller_checkpoint(checkpoints: Path = ROOT / "checkpoints") -> dict[str, nn.Module]:
    """The modules "vae", "unet", "text_encoder" and "scale" of the usual family's demo checkpoint."""
    usual = next(family for family in families().values() if family.usual)
    found: dict[str, nn.Module] = {}
    for _, modules in usual.load(checkpoints).values():
        found |= dict(modules.items())
    return found


def begin_unet(unet: UNet2DConditionModel, smaller: UNet2DConditionModel) -> None:
    """Copy the weights that both have. 1x1 convolutions become linear layers, the added embedding adds
    nothing at first, and cross attention does not see the second text encoder yet."""
    known = smaller.state_dict()
    state = {name: _fitted(value, known.get(name)) for name, value in unet.state_dict().items()}
    for name in ("add_embedding.linear_2.weight", "add_embedding.linear_2.bias"):
        state[name] = torch.zeros_like(state[name])
    unet.load_state_dict(state)


def begin_text_encoder(encoder: CLIPTextModel, smaller: CLIPTextModel) -> None:
    """Copy embeddings and layers; a layer that the smaller one does not have stays random."""
    known: Mapping[str, Tensor] = smaller.state_dict()
    encoder.load_state_dict({**encoder.state_dict(), **known})


def _fitted(value: Tensor, known: Tensor | None) -> Tensor:
    """`known` in the shape of `value`: without the axes of a 1x1 kernel, with zeros for inputs that were not there."""
    if known is None:
        return value
    if known.ndim == value.ndim + 2:
        known = known[:, :, 0, 0]
    if known.shape == value.shape:
        return known
    wider = torch.zeros_like(value)
    wider[:, : known.shape[1]] = known
    return wider


def frozen(vae: nn.Module, device: torch.device) -> AutoencoderKL:
    """The VAE in evaluation mode, for making samples."""
    assert isinstance(vae, AutoencoderKL)
    return vae.to(device).eval().requires_grad_(False)
