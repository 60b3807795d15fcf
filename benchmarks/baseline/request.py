"""The JSON body of the baseline: the fields of `POST /generate` that it has."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GenerateBody(BaseModel):
    """One job. `control_image` is a base64 image, with or without a data: prefix."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    negative_prompt: str = ""
    steps: int = Field(20, ge=1, le=150)
    guidance_scale: float = Field(7.5, ge=0, le=50)
    seed: int | None = Field(None, ge=0, lt=2**63 - 1024)
    width: int = Field(512, ge=64, le=1024, multiple_of=8)
    height: int = Field(512, ge=64, le=1024, multiple_of=8)
    num_images: int = Field(1, ge=1, le=8)
    control_image: str | None = None
    low_threshold: int = Field(100, ge=1, le=255)
    high_threshold: int = Field(200, ge=1, le=255)
    controlnet_conditioning_scale: float = Field(1.0, ge=0, le=2)
