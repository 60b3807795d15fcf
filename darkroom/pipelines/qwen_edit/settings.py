"""The settings of Qwen-Image-Edit. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from darkroom.diffusion.attention_settings import AttentionOrder
from darkroom.parallel.layout import Layout
from darkroom.parallel.settings import Devices, DeviceType, DividedSettings
from darkroom.pipelines.qwen_edit.distributed.layouts import layout_for
from darkroom.request.fields import SIDE_MINIMUM


class Settings(DividedSettings):
    """What is exported and served, and the limits of one request."""

    model_config = SettingsConfigDict(env_prefix="QWEN_EDIT_")
    title = "Editing with Qwen-Image-Edit"
    other_names: ClassVar[Mapping[str, str]] = {"checkpoint": "MODEL_REPO_ID"}

    checkpoint: str = Field(
        "checkpoints/demo-qwen-edit",
        description="The checkpoint: a folder in the diffusers layout, or a hub id, of Qwen-Image-Edit or of the plus "
        "models (2509, 2511), which read several images. Takes effect with the next export (./start.sh). "
        "MODEL_REPO_ID is another name of it.",
    )
    fp16: bool = Field(True, description="Half precision of the VAE where there is a GPU.")
    device_type: DeviceType = None
    devices: Devices = ()
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="What the text encoder and the transformer compute in: float32, bfloat16 or float16. Empty: "
        "float32 on CPUs, bfloat16 elsewhere.",
    )
    weights: Literal["full", "int8"] = Field(
        "full",
        description="How the weights of the text encoder and the transformer lie in memory: full, as they compute, or "
        "int8, a byte each, which takes half the memory of bfloat16 and a little of the quality.",
    )
    text_encoder_weights: Literal["full", "int8"] | None = Field(
        None, description="The same for the text encoder alone: full or int8. Empty: as QWEN_EDIT_WEIGHTS."
    )
    text_encoder_device: Literal["cpu"] | None = Field(
        None,
        description="cpu for a text encoder that stays on the CPU where the GPU has no room for it. Empty: where the "
        "other networks run.",
    )
    controlnet: str | None = Field(
        None,
        description="A ControlNet of Qwen-Image, as InstantX/Qwen-Image-ControlNet-Union, that control images go "
        "through, as those of modes 13 to 16: a folder in the diffusers layout, or a hub id. Takes effect with the "
        "next export. Empty: the model sees a control image as one more image.",
    )
    attention: AttentionOrder = ()
    depth_model: str | None = Field(
        None,
        description="A model of transformers for depth estimation, for depth maps of the image that is edited: a "
        "folder with config.json, preprocessor_config.json and safetensors, or a hub id, which ./start.sh fetches. It "
        "runs on the CPU. Empty: none are made.",
    )
    keypoints_model: str | None = Field(
        None,
        description="The same for the keypoints of a person: a ViTPose model for 17 keypoints.",
    )
    max_pixels: int = Field(
        1024 * 1024,
        ge=SIDE_MINIMUM**2,
        description="Largest image that is edited, in pixels: width times height. A larger first image is edited at "
        "this size, and the result is enlarged to its own.",
    )
    max_input_pixels: int = Field(
        4096 * 4096,
        ge=SIDE_MINIMUM**2,
        description="Largest image and mask of a request, in pixels; larger ones are refused after a look at their "
        "header.",
    )
    max_input_images: int = Field(
        5, ge=1, le=5, description="Most images that one request may give. The models were trained with up to three."
    )
    max_steps: int = Field(50, ge=1, le=1000, description="Most denoising steps of a request.")
    max_images: int = Field(4, ge=1, le=1024, description="Most results of a request.")
    max_prompt: int = Field(4000, ge=1, description="Most characters of a prompt, and of a negative prompt.")

    @classmethod
    def layout_for(cls, count: int) -> Layout:
        return layout_for(count)

    @property
    def map_models(self) -> dict[str, str | None]:
        """The models that maps need."""
        return {"depth": self.depth_model, "keypoints": self.keypoints_model}
