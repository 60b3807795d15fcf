"""The model `sd15_loras`, which takes LoRA files."""

from __future__ import annotations

from darkroom.diffusion.lora_reader import LoraReader
from darkroom.pipelines.sd15 import networks


class Loras(LoraReader):
    """LoRAs of Stable Diffusion 1.5."""

    spec = networks.LORAS
    networks = (networks.UNET, networks.TEXT_ENCODER)
