"""The settings of Stable Diffusion 1.5. No torch here."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from darkroom.diffusion.control_settings import Controlnets
from darkroom.family_settings import FamilySettings
from darkroom.request.fields import SIDE_MINIMUM


class Settings(FamilySettings):
    """What is exported and served, and the limits of one request."""

    model_config = SettingsConfigDict(env_prefix="SD15_")
    title = "Text to image with Stable Diffusion 1.5"
    old_prefix = "GENERATE_"

    checkpoint: str = Field(
        "checkpoints/demo-sd15",
        description="The checkpoint that makes the images: a folder in the diffusers layout, one .safetensors file, "
        "or a hub id (set HF_TOKEN where the hub asks for one). Takes effect with the next export (./start.sh).",
    )
    controlnets: Controlnets = Field(
        ("canny=checkpoints/demo-sd15-canny",),
        description="A ControlNet for each kind of control, as canny=FOLDER_OR_ID, with commas between several. Takes "
        "effect with the next export.",
    )
    fp16: bool = Field(
        True, description="Half precision where there is a GPU. Takes effect with the next export (./start.sh)."
    )
    max_pixels: int = Field(
        1024 * 1024, ge=SIDE_MINIMUM**2, description="Largest image of a request, in pixels: width times height."
    )
    max_steps: int = Field(150, ge=1, le=1000, description="Most denoising steps of a request.")
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
