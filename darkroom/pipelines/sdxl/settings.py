"""The settings of Stable Diffusion XL. No torch here."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from darkroom.diffusion.control_settings import Controlnets
from darkroom.family_settings import FamilySettings
from darkroom.request.fields import SIDE_MINIMUM

NO_REFINER = "none"


class Settings(FamilySettings):
    """What is exported and served, and the limits of one request."""

    model_config = SettingsConfigDict(env_prefix="SDXL_")
    title = "Text to image with Stable Diffusion XL"

    checkpoint: str = Field(
        "checkpoints/demo-sdxl-base",
        description="The base checkpoint, perhaps a Turbo or Lightning one: a folder in the diffusers layout, one "
        ".safetensors file, or a hub id. Takes effect with the next export (./start.sh), as the next three do.",
    )
    refiner: str = Field(
        "checkpoints/demo-sdxl-refiner",
        description="The refiner, which does the last steps: a folder in the diffusers layout, one .safetensors file, "
        "or a hub id; none to do without one. The default one goes with the default checkpoint alone.",
    )
    controlnets: Controlnets = Field(
        (),
        description="A ControlNet for each kind of control, as canny=FOLDER_OR_ID, with commas between several. It "
        "acts on the base alone.",
    )
    fp16: bool = Field(
        True, description="Half precision where there is a GPU. The VAE stays in fp32, because it overflows in fp16."
    )
    max_pixels: int = Field(
        1024 * 1024, ge=SIDE_MINIMUM**2, description="Largest image of a request, in pixels: width times height."
    )
    max_steps: int = Field(150, ge=4, le=1000, description="Most denoising steps of a request.")
    max_images: int = Field(8, ge=1, le=1024, description="Most images of a request.")
    max_prompt: int = Field(4000, ge=1, description="Most characters of a prompt, and of a negative prompt.")
    max_control_pixels: int = Field(
        4096 * 4096,
        ge=1,
        description="Largest reference image, in pixels; larger ones are refused after a look at their header.",
    )
    max_init_pixels: int = Field(
        4096 * 4096,
        ge=SIDE_MINIMUM**2,
        description="Largest init_image and mask, in pixels; larger ones are refused after a look at their header.",
    )
