"""The model `sdxl_loras`, which takes LoRA files."""

from __future__ import annotations

from darkroom.diffusion.lora_reader import LoraReader
from darkroom.pipelines.sdxl import networks


class Loras(LoraReader):
    """LoRAs of Stable Diffusion XL."""

    spec = networks.LORAS
    networks = (networks.UNET, *networks.TEXT_ENCODERS)
