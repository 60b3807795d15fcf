"""The settings of HiDream-I1. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from darkroom.parallel.layout import Layout
from darkroom.parallel.settings import Devices, DeviceType, DividedSettings
from darkroom.pipelines.hidream.distributed.layouts import layout_for
from darkroom.request.fields import SIDE_MINIMUM


class Settings(DividedSettings):
    """What is exported and served, the devices of the transformer, and the limits of one request."""

    model_config = SettingsConfigDict(env_prefix="HIDREAM_")
    title = "Text to image with HiDream-I1"
    options: ClassVar[Mapping[str, str]] = {"device_type": "-t", "devices": "-d"}

    checkpoint: str = Field(
        "checkpoints/demo-hidream",
        description="The checkpoint: a folder in the diffusers layout, or a hub id. Takes effect with the next export "
        "(./start.sh), as the next three do.",
    )
    llama: str | None = Field(
        None,
        description="Its Llama-3.1-8B-Instruct where the checkpoint does not contain it: a folder in the diffusers "
        "layout, or a hub id.",
    )
    variant: Literal["full", "dev", "fast"] | None = Field(
        None, description="full, dev or fast; empty: what the checkpoint's name ends with."
    )
    fp16: bool = Field(True, description="Half precision of the encoders and the VAE where there is a GPU.")
    device_type: DeviceType = None
    devices: Devices = ()
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="What the transformer computes in: float32, bfloat16 or float16. Empty: float32 on CPUs, bfloat16 "
        "elsewhere.",
    )
    compile: bool = Field(
        False,
        description="true for torch.compile, on one device only: the first call of every image size takes minutes.",
    )
    max_pixels: int = Field(
        1024 * 1024, ge=SIDE_MINIMUM**2, description="Largest image of a request, in pixels: width times height."
    )
    max_steps: int = Field(150, ge=1, le=1000, description="Most denoising steps of a request.")
    max_images: int = Field(8, ge=1, le=1024, description="Most images of a request.")
    max_prompt: int = Field(4000, ge=1, description="Most characters of a prompt, and of a negative prompt.")

    @classmethod
    def layout_for(cls, count: int) -> Layout:
        return layout_for(count)

    def summary(self) -> str:
        """How the transformer is divided over its devices."""
        layout = layout_for(len(self.devices) or 1)
        return "tensor parallel {tp} x expert parallel {ep}".format(**layout.axes)
