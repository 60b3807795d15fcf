"""A service of a few models with small limits."""

from __future__ import annotations

from pathlib import Path

from darkroom.pipelines.upscale.networks import NETWORKS
from tests.service import link_models

WITH_LORAS = ("sd15", "sd15_loras", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15_vae_encoder")
"""The models of a service that takes LoRAs."""
SMALL = {
    "sd15_max_steps": 2,
    "sd15_max_images": 1,
    "sd15_max_pixels": 512 * 512,
    "upscale_max_pixels": 128 * 128,
    "upscale_max_output_pixels": 128 * 128 * 64,
    "canary_interval": 3600,
    "submit_operation": "generate",
    "submit_enlarge": "none",
    "cors_origins": "http://shop.example",
}


def small_repository(folder: Path) -> Path:
    """SD 1.5 with its ControlNet, and the upscaler."""
    return link_models(
        folder / "models",
        *("sd15", "sd15_loras", "sd15_text_encoder", "sd15_unet", "sd15_unet_canny"),
        *("sd15_vae_decoder", "sd15_vae_encoder"),
        *("upscale", *(network.model_name for network in NETWORKS)),
    )
