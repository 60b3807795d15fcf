"""The settings of HiDream-I1. No torch here."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from darkroom.devices import usable_gpus
from darkroom.errors import InvalidInput
from darkroom.family_settings import FamilySettings
from darkroom.parallel.devices import environment, kind_of
from darkroom.pipelines.hidream.distributed.layouts import layout_for, parse_devices
from darkroom.request.fields import SIDE_MINIMUM

log = logging.getLogger("darkroom")


class Settings(FamilySettings):
    """What is exported and served, the devices of the transformer, and the limits of one request."""

    model_config = SettingsConfigDict(env_prefix="HIDREAM_")
    title = "Text to image with HiDream-I1"

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
    device_type: Literal["cpu", "cuda", "npu"] | None = Field(
        None,
        description="What the transformer runs on: cpu, cuda or npu. Empty: where the other networks run, one whole "
        "transformer on each GPU.",
    )
    devices: Annotated[tuple[int, ...], NoDecode] = Field(
        (),
        description="The numbers of the 1, 2, 4 or 8 devices that the transformer is divided over, as 0,1,2,3; on a "
        "CPU only the count matters. The first one needs room for the whole transformer, which goes on there alone if "
        "the ranks fail.",
    )
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

    def environment(self) -> dict[str, str]:
        """With what the devices need in the environment before torch is imported."""
        kind = self.device_type
        return {**super().environment(), **(environment(kind_of(kind), self.devices or (0,)) if kind else {})}

    def problems(self, gpus: Sequence[int]) -> list[str]:
        """Devices that the transformer is to run on and that this machine does not have.

        Where only others than the first are missing that is a warning: the transformer's start on several devices
        fails, and it goes on with the first.
        """
        kind = self.device_type or ("cuda" if gpus else "cpu")
        if kind == "npu" and importlib.util.find_spec("torch_npu") is None:
            needs = "needs Ascend's package torch_npu beside torch; it is not installed."
            return [f"HIDREAM_DEVICE_TYPE=npu (-t npu) {needs}"]
        if kind != "cuda":
            return []
        there = usable_gpus(None)
        wanted = self.devices or there[:1] or (0,)
        missing = [number for number in wanted if number not in there]
        if not missing:
            return []
        have = ", ".join(map(str, there)) or "none"
        problem = f"HIDREAM_DEVICES (-d) asks for GPU {', '.join(map(str, missing))}; this machine has {have}"
        if wanted[0] in missing:
            return [f"{problem} (or try -t cpu)."]
        log.warning("%s. HiDream goes on with GPU %d alone.", problem, wanted[0])
        return []

    def summary(self) -> str:
        """How the transformer is divided over its devices."""
        layout = layout_for(len(self.devices) or 1)
        return "tensor parallel {tp} x expert parallel {ep}".format(**layout.axes)

    @field_validator("devices", mode="before")
    @classmethod
    def _divisible(cls, value: object) -> object:
        try:
            return parse_devices(value) if isinstance(value, str) and value else value
        except InvalidInput as error:
            raise ValueError(error.message) from None
