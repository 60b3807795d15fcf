"""Every setting of the service, read from the environment and from `.env`. `.env.example` explains each one."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from darkroom.devices import usable_gpus
from darkroom.diffusion.controls import control_names
from darkroom.errors import InvalidInput
from darkroom.parallel.devices import environment, kind_of
from darkroom.pipelines.hidream.distributed.layouts import parse_devices
from darkroom.pipelines.hidream.request import Limits as HidreamLimits
from darkroom.pipelines.sd15.request import SIDE_MINIMUM
from darkroom.pipelines.sd15.request import Limits as GenerateLimits
from darkroom.pipelines.upscale.networks import model_names
from darkroom.pipelines.upscale.request import TILE_PAD_RANGE, TILE_RANGE, Limits

ROOT = Path(__file__).resolve().parents[1]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """The fields are the names of the environment variables, in lower case."""

    model_config = SettingsConfigDict(env_file=ROOT / ".env", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = "0.0.0.0"
    port: Port = 8000
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    forwarded_allow_ips: str = ""
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = ("*",)
    request_timeout: float = Field(10, gt=0)

    task_queue_size: int = Field(100, ge=0)
    task_timeout: float = Field(300, gt=0)
    max_concurrent_tasks: int = Field(8, ge=1)
    drain_timeout: float = Field(300, ge=0)

    database_url: str | None = None
    task_max_attempts: int = Field(5, ge=1)
    task_retention_hours: float = Field(168, gt=0)
    task_retention_gb: float = Field(20, gt=0)
    submit_operation: Literal["auto", "hidream", "generate"] = "auto"
    submit_enlarge: str = "animevideov3"

    max_upload_mb: float = Field(50, gt=0)
    max_batch_mb: float = Field(200, gt=0)
    max_batch_files: int = Field(50, ge=1)

    upscale_max_pixels: int = Field(Limits.max_pixels, ge=1)
    upscale_max_output_pixels: int = Field(Limits.max_output_pixels, ge=1)
    upscale_tile: int = Field(Limits.tile, ge=TILE_RANGE[0], le=TILE_RANGE[1])
    upscale_tile_pad: int = Field(Limits.tile_pad, ge=TILE_PAD_RANGE[0], le=TILE_PAD_RANGE[1])
    upscale_tiles_in_flight: int = Field(Limits.tiles_in_flight, ge=1, le=64)
    upscale_tiles_at_network: int = Field(Limits.tiles_at_network, ge=1, le=1024)
    upscale_fp16: bool = True

    sd15_checkpoint: str = "checkpoints/demo-sd15"
    sd15_controlnets: Annotated[tuple[str, ...], NoDecode] = ("canny=checkpoints/demo-sd15-canny",)
    sd15_fp16: bool = True

    hidream_checkpoint: str = "checkpoints/demo-hidream"
    hidream_llama: str | None = None
    hidream_variant: Literal["full", "dev", "fast"] | None = None
    hidream_fp16: bool = True
    hidream_device_type: Literal["cpu", "cuda", "npu"] | None = None
    hidream_devices: Annotated[tuple[int, ...], NoDecode] = ()
    hidream_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    hidream_compile: bool = False

    generate_max_pixels: int = Field(GenerateLimits.max_pixels, ge=SIDE_MINIMUM**2)
    generate_max_steps: int = Field(GenerateLimits.max_steps, ge=1, le=1000)
    generate_max_images: int = Field(GenerateLimits.max_images, ge=1, le=1024)
    generate_max_prompt: int = Field(GenerateLimits.max_prompt, ge=1)
    generate_max_control_pixels: int = Field(GenerateLimits.max_control_pixels, ge=1)

    hidream_max_pixels: int = Field(HidreamLimits.max_pixels, ge=SIDE_MINIMUM**2)
    hidream_max_steps: int = Field(HidreamLimits.max_steps, ge=1, le=1000)
    hidream_max_images: int = Field(HidreamLimits.max_images, ge=1, le=1024)
    hidream_max_prompt: int = Field(HidreamLimits.max_prompt, ge=1)

    triton_grpc_host: str = "127.0.0.1"
    triton_grpc_port: Port = 8001
    triton_http_port: Port = 8010
    triton_metrics_port: Port = 8002
    triton_allow_http: bool = False
    triton_grpc_bind: str = "127.0.0.1"
    canary_interval: float = Field(30, gt=0)
    canary_timeout: float = Field(120, gt=0)

    hf_token: str | None = Field(None, repr=False)
    hf_endpoint: str | None = None

    num_gpus_to_use: int | None = Field(None, ge=0)
    state_dir: Path = ROOT / ".darkroom"
    model_repository: Path = Field(default_factory=lambda data: _default_repository(data))
    data_dir: Path = Field(default_factory=lambda data: data["state_dir"] / "data")
    log_dir: Path = ROOT / "logs"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("cors_origins", "trusted_hosts", "sd15_controlnets", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("sd15_controlnets")
    @classmethod
    def _control_and_checkpoint(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            control, _, checkpoint = entry.partition("=")
            if control not in control_names() or not checkpoint:
                raise ValueError(
                    f"must be CONTROL=CHECKPOINT with CONTROL of {', '.join(control_names())}; got {entry!r}"
                )
        return value

    @field_validator("hidream_devices", mode="before")
    @classmethod
    def _divisible(cls, value: object) -> object:
        try:
            return parse_devices(value) if isinstance(value, str) and value else value
        except InvalidInput as error:
            raise ValueError(error.message) from None

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "sqlite:///")):
            raise ValueError(f"must begin with postgresql:// or sqlite:///; got {value.partition(':')[0]!r}")
        return value

    @field_validator("submit_enlarge")
    @classmethod
    def _known_upscaler(cls, value: str) -> str:
        names = ("none", *model_names())
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}; got {value!r}")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that the networks run on; none means the CPU."""
        return usable_gpus(self.num_gpus_to_use)

    @field_validator("model_repository", "state_dir", "data_dir", "log_dir")
    @classmethod
    def _from_the_checkout(cls, value: Path) -> Path:
        return ROOT / value

    @cached_property
    def limits(self) -> Limits:
        """The limits of the upscale pipeline."""
        return Limits.of(self)

    @cached_property
    def generate_limits(self) -> GenerateLimits:
        """The limits of the text to image pipeline."""
        return GenerateLimits.of(self)

    @cached_property
    def hidream_limits(self) -> HidreamLimits:
        """The limits of the HiDream pipeline."""
        return HidreamLimits.of(self)

    @property
    def controlnets(self) -> dict[str, str]:
        """The checkpoint of each kind of control."""
        return {control: checkpoint for control, _, checkpoint in (e.partition("=") for e in self.sd15_controlnets)}

    @property
    def triton_grpc(self) -> str:
        """host:port of Triton's gRPC."""
        return f"{self.triton_grpc_host}:{self.triton_grpc_port}"

    @property
    def triton_metrics(self) -> str:
        """URL of Triton's metrics."""
        return f"http://{self.triton_grpc_host}:{self.triton_metrics_port}/metrics"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for child processes that do not read `.env` themselves, and what
        HiDream's devices need in it before torch is imported."""
        given = {name.upper(): value for name, value in self if value is not None}
        texts = {name: _as_text(value) for name, value in given.items()}
        kind = self.hidream_device_type
        special = environment(kind_of(kind), self.hidream_devices or (0,)) if kind else {}
        return {**os.environ, **texts, **special}


def _as_text(value: object) -> str:
    """As the environment says it: 1 and 0, and commas between the parts of several."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _default_repository(data: dict[str, Any]) -> Path:
    """The committed repository is for CPUs; with GPUs, `python -m exporters prepare` renders another one."""
    gpus = usable_gpus(data.get("num_gpus_to_use"))
    return Path(data["state_dir"]) / "model_repository" if gpus else ROOT / "model_repository"
