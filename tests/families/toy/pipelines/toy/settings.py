"""The settings of the toy family."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from darkroom.family_settings import FamilySettings


class Settings(FamilySettings):
    """The limits of one request."""

    model_config = SettingsConfigDict(env_prefix="TOY_")
    title = "Toy"

    max_pixels: int = Field(256 * 256, ge=1, description="Largest image, in pixels.")
    max_steps: int = Field(10, ge=1, description="Most steps of a request.")
    max_images: int = Field(4, ge=1, description="Most images of a request.")
    max_prompt: int = Field(100, ge=1, description="Most characters of a prompt.")
