"""A checkpoint in the diffusers folder layout: is it of this family, which files are read, and its networks in fp32.

Layout: https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0 and -refiner-1.0. What needs no weights
(classes, widths, missing files) is checked from the JSON files before torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.pipelines.sdxl.checkpoint import LATENT_CHANNELS, VAE_SCALE_FACTOR
from exporters.checkpoints import components, controlnet
from exporters.checkpoints.components import (
    DIFFUSERS_STEMS,
    INDEX,
    TRANSFORMERS_STEMS,
    Component,
    expect,
    read_component,
    require,
)
from exporters.checkpoints.files import read_json
from exporters.checkpoints.latent_diffusion import check_class, check_unet, check_vae
from exporters.controls import CONTROLNET

UNET, VAE, REFINER = "unet", "vae", "refiner"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
KINDS = {
    UNET: "UNet2DConditionModel",
    VAE: "AutoencoderKL",
    TEXT_ENCODERS[0]: "CLIPTextModel",
    TEXT_ENCODERS[1]: "CLIPTextModelWithProjection",
}
"""The class of each part of a base checkpoint."""
_AS_THE_UNET = (
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
"""Entries of a ControlNet's config.json. Its blocks may have less attention than those of the UNet."""
_SCORED_IDS, _SIZED_IDS = 5, 6
"""Numbers of a UNet's micro-conditioning: four, and either the aesthetic score or the target size."""
_CONDITIONS = {
    "addition_embed_type": "text_time",
    # What would need inputs that the served graphs do not have.
    **dict.fromkeys(("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")),
}
_FAMILY = "Stable Diffusion XL"


@dataclass(frozen=True, kw_only=True)
class SdxlCheckpoint:
    """A checked base checkpoint.

    :param index: model_index.json.
    :param parts: its networks, by the names of KINDS.
    """

    root: Path
    index: Mapping[str, Any]
    parts: Mapping[str, Component]

    @property
    def projection(self) -> int:
        """The width of the pooled embedding of the second text encoder."""
        return int(self.parts[TEXT_ENCODERS[1]].config.get("projection_dim", 512))

    def width(self, encoder: str) -> int:
        """The width of a text encoder."""
        return int(self.parts[encoder].config.get("hidden_size", 512))  # transformers leaves defaults out


@dataclass(frozen=True, kw_only=True)
class Refiner:
    """A checked refiner: a UNet, which goes with the second text encoder and the VAE of a base checkpoint.

    :param scored: whether it was trained with an aesthetic score in place of the target size.
    """

    unet: Component
    scored: bool


def read_checkpoint(root: Path) -> SdxlCheckpoint:
    """Check a base checkpoint's folder without reading its weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    index = read_json(root, INDEX)
    for part, kind in KINDS.items():
        check_class(root, index, part, kind, _FAMILY)
    stems = dict.fromkeys(TEXT_ENCODERS, TRANSFORMERS_STEMS)
    parts = {part: read_component(root, part, kind, stems.get(part, DIFFUSERS_STEMS)) for part, kind in KINDS.items()}
    checkpoint = SdxlCheckpoint(root=root, index=index, parts=parts)
    widths = sum(checkpoint.width(encoder) for encoder in TEXT_ENCODERS)
    _check_unet(parts[UNET], widths, "the widths of both text encoders together", inpaints=True)
    _check_conditions(parts[UNET], _SIZED_IDS, checkpoint.projection)
    check_vae(parts[VAE], channels=LATENT_CHANNELS, factor=VAE_SCALE_FACTOR)
    for name in ("latents_mean", "latents_std"):
        expect(parts[VAE], name, None)
    return checkpoint


def read_controlnet(root: Path, unet: Component) -> Component:
    """Check a ControlNet's folder and that it suits the UNet of a base.

    :raises ExportError: as `read_checkpoint`.
    """
    return controlnet.read_controlnet(
        root, unet, channels=LATENT_CHANNELS, factor=VAE_SCALE_FACTOR, conditions=_CONDITIONS, same=_AS_THE_UNET
    )


def read_refiner(root: Path, base: SdxlCheckpoint) -> Refiner:
    """Check a refiner's folder, and that it goes with a base checkpoint.

    :raises ExportError: as `read_checkpoint`.
    """
    index = read_json(root, INDEX)
    check_class(root, index, UNET, KINDS[UNET], _FAMILY)
    unet = read_component(root, UNET, KINDS[UNET], DIFFUSERS_STEMS)
    _check_unet(unet, base.width(TEXT_ENCODERS[1]), "the width of the base's second text encoder")
    scored = bool(index.get("requires_aesthetics_score", False))
    _check_conditions(unet, _SCORED_IDS if scored else _SIZED_IDS, base.projection)
    return Refiner(unet=unet, scored=scored)


def _check_unet(unet: Component, width: int, why: str, *, inpaints: bool = False) -> None:
    check_unet(unet, channels=LATENT_CHANNELS, conditions=_CONDITIONS, width=width, why=why, inpaints=inpaints)


def _check_conditions(unet: Component, ids: int, projection: int) -> None:
    wanted = ids * int(unet.config.get("addition_time_embed_dim") or 0) + projection
    found = unet.config.get("projection_class_embeddings_input_dim")
    why = f"for {ids} numbers and a pooled embedding of {projection}"
    require(unet, "projection_class_embeddings_input_dim", wanted, found, why=why)


def load(part: str, component: Component) -> Any:
    """A network in fp32, of the class in KINDS.

    :param part: a name of KINDS, REFINER or CONTROLNET.
    :raises ExportError: its weights are damaged or of another network.
    """
    kinds = {**KINDS, REFINER: KINDS[UNET], CONTROLNET: controlnet.KIND}
    return components.load(kinds[part], component, diffusers=part not in TEXT_ENCODERS)
