"""A checkpoint in the diffusers folder layout: is it of this family, which files are read, and its networks in fp32.

Layout: https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5. What needs no weights (classes, widths,
missing files) is checked from the JSON files before torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from exporters.checkpoints import components, controlnet
from exporters.checkpoints.components import (
    DIFFUSERS_STEMS,
    INDEX,
    TRANSFORMERS_STEMS,
    Component,
    read_component,
)
from exporters.checkpoints.files import read_json
from exporters.checkpoints.latent_diffusion import check_class, check_unet, check_vae, other_kind

KINDS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "controlnet": controlnet.KIND,
}
"""The class of each part."""
_FAMILY = "Stable Diffusion 1.5"
_CHECKPOINT_PARTS = ("unet", "vae", "text_encoder")
# What would need inputs that the served graphs do not have.
_EXTRA_CONDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type",
                     "time_cond_proj_dim")  # fmt: skip
_SHAPE = ("down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim")


@dataclass(frozen=True, kw_only=True)
class Sd15Checkpoint:
    """A checked folder."""

    root: Path
    unet: Component
    vae: Component
    text_encoder: Component

    def component(self, part: str) -> Component:
        """One of "unet", "vae", "text_encoder"."""
        found: Component = getattr(self, part)
        return found


def read_checkpoint(root: Path) -> Sd15Checkpoint:
    """Check a folder without reading its weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    index = read_json(root, INDEX)
    for part in _CHECKPOINT_PARTS:
        check_class(root, index, part, KINDS[part], _FAMILY)
        if f"{part}_2" in index:
            raise other_kind(root, index, part, KINDS[part], _FAMILY)
    stems = {"text_encoder": TRANSFORMERS_STEMS}
    parts = {
        part: read_component(root, part, KINDS[part], stems.get(part, DIFFUSERS_STEMS)) for part in _CHECKPOINT_PARTS
    }
    checkpoint = Sd15Checkpoint(root=root, **parts)
    _check_unet(checkpoint)
    check_vae(checkpoint.vae, channels=LATENT_CHANNELS, factor=VAE_SCALE_FACTOR)
    return checkpoint


def read_controlnet(root: Path, unet: Component) -> Component:
    """Check a ControlNet's folder and that it suits the UNet.

    :raises ExportError: as `read_checkpoint`.
    """
    conditions = dict.fromkeys(("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"))
    return controlnet.read_controlnet(
        root, unet, channels=LATENT_CHANNELS, factor=VAE_SCALE_FACTOR, conditions=conditions, same=_SHAPE
    )


def _check_unet(checkpoint: Sd15Checkpoint) -> None:
    unet = checkpoint.unet
    width = checkpoint.text_encoder.config.get("hidden_size", 512)  # transformers leaves defaults out
    conditions = dict.fromkeys(_EXTRA_CONDITIONS)
    why = "the width of the text encoder"
    check_unet(unet, channels=LATENT_CHANNELS, inpaints=True, conditions=conditions, width=width, why=why)


def load(part: str, component: Component) -> Any:
    """A network in fp32: UNet2DConditionModel, ControlNetModel, AutoencoderKL or CLIPTextModel.

    :raises ExportError: its weights are damaged or of another network.
    """
    return components.load(KINDS[part], component, diffusers=part != "text_encoder")
