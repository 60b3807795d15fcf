"""The settings of the service, read from the environment and from `.env`. `.env.example` explains each one.

A model family brings its own: see `darkroom.family_settings`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from typing_extensions import Self

from darkroom import pipelines
from darkroom.devices import usable_gpus
from darkroom.family_settings import FamilySettings, as_text, settings_classes, split_at_commas
from darkroom.home import ENV_FILE, STATE
from darkroom.home import ROOT as ROOT
from darkroom.record_settings import RecordSettings
from darkroom.triton_settings import Names, Port, TritonSettings

SECRETS = frozenset({"DATABASE_URL", "HF_TOKEN"})
"""Settings whose values are not shown, and not in backups."""
SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "host": "The REST service",
        "max_concurrent_tasks": "Limits",
        "database_url": "Durable tasks (docs/tasks.md)",
        "policy_file": "Content policy (docs/policy.md)",
        "model_aliases": "OpenAI's images API (docs/openai.md)",
        "use_plus_pipeline": "Editing",
        "train_checkpoint": "Training of LoRAs",
        "max_upload_mb": "Uploads",
        "hf_token": "Where checkpoints come from",
        "num_gpus_to_use": "GPUs",
        "engine": "The engine: Triton, or the local one in its place",
        "triton_grpc_port": "Triton",
        "state_dir": "Folders",
        "families": "Model families",
        "audit": "Audit trail (docs/audit.md) and provenance (docs/provenance.md)",
        "metrics": "Metrics and traces (docs/monitoring.md)",
    }
)
"""The headings of `.env.example`, each by the first field under it."""


class Settings(TritonSettings, RecordSettings):
    """The fields are the names of the environment variables, in lower case."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = Field("0.0.0.0", description="Address to listen on.")
    port: Port = Field(8000, description="Port to listen on.")
    cors_origins: Names = Field(
        (),
        description='Origins that browsers may call from, separated by commas ("*" for all). Empty switches CORS off, '
        "and what a page of another origin sends is refused with 403.",
    )
    forwarded_allow_ips: str = Field(
        "",
        description="Reverse proxies in front of the service, whose X-Forwarded-For and X-Forwarded-Proto are "
        'believed: addresses and networks with commas between them, "*" for all. Clients take turns by their address, '
        "so set it where there is a reverse proxy: without it all requests that come through it count as one "
        "client's, and links in answers begin with http.",
    )
    trusted_hosts: Names = Field(
        ("*",),
        description="Names of the service (the Host of requests, without the port), separated by commas; "
        '*.example.com is every name below example.com. "*" takes any name, as it has to behind proxies. Set it where '
        "browsers on this machine or in this network open foreign pages: a page may give its own name this machine's "
        "address, and then counts as ours.",
    )
    request_timeout: float = Field(
        10,
        gt=0,
        description="Seconds that the headers of a request may take to arrive, and that its body may stand still; then "
        "408. Slow uploads that go on may take as long as they need.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text, or json: an object on each line (docs/monitoring.md)."
    )
    log_dir: Path = Field(ROOT / "logs", description="Where logs go (they go to standard output as well).")

    max_concurrent_tasks: int = Field(8, ge=1, description="Tasks that run at once.")
    task_queue_size: int = Field(100, ge=0, description="Tasks that may wait; more are refused with 429.")
    task_timeout: float = Field(
        300,
        gt=0,
        description="Seconds that a request may take, waiting included; then 504. A durable task may take as long as "
        "it needs, but counts as stuck, and is restarted, after that many seconds without a step.",
    )
    training_concurrent_tasks: int = Field(
        1,
        ge=1,
        description="Trainings that run at once, besides the tasks above; as many as TASK_QUEUE_SIZE may wait.",
    )
    drain_timeout: float = Field(
        300, ge=0, description="Seconds that accepted work gets to finish after SIGTERM or Ctrl-C."
    )

    database_url: str | None = Field(
        None,
        description="Where tasks are kept: postgresql://user:password@host/name, for several proxies; empty uses a "
        "SQLite file in DATA_DIR. Their images are in DATA_DIR in any case, which several proxies have to share.",
    )
    task_max_attempts: int = Field(
        5,
        ge=1,
        description="How often a task is started: it is restarted when the server or the service dies while it runs. "
        "After that many times it has failed.",
    )
    task_retention_hours: float = Field(168, gt=0, description="Hours that results are kept; older ones are deleted.")
    task_retention_gb: float = Field(
        20, gt=0, description="Gigabytes of results that are kept in all; over that, the oldest are deleted first."
    )
    submit_operation: str = Field(
        "auto",
        description="What POST /submit does: generate, the name of a model that generates, or auto, which is the model "
        "of the service that this endpoint comes from, where it is exported.",
    )
    submit_enlarge: str = Field(
        "animevideov3",
        description="POST /submit makes images that are larger than the checkpoint was trained for at a size that it "
        'knows, and enlarges them with this upscaler. "none": they are made at the size that was asked for.',
    )

    model_aliases: Names = Field(
        ("gpt-image-*=default", "chatgpt-image-*=default", "dall-e-*=default"),
        description="Further names of models for the endpoints below /v1: NAME=MODEL, separated by commas; the first "
        "one that fits counts. * in a name stands for any characters. MODEL is a name of GET /models, or default: the "
        "model of requests that name none.",
    )

    use_plus_pipeline: bool | None = Field(
        None,
        description="Whether one edit may have several images. Empty: if the exported checkpoint reads several. false "
        "refuses them, with 409.",
    )

    train_checkpoint: str | None = Field(
        None,
        description="The checkpoint that LoRAs are trained on: a folder in the diffusers layout, a .safetensors file, "
        "or a hub id. Empty: the one that the exported Stable Diffusion XL was made of, else Stable Diffusion 1.5.",
    )
    train_device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="What trains: cpu, cuda, or cuda:N for GPU N; auto is CUDA where there is one.",
    )
    train_threads: int | None = Field(
        None, ge=1, le=256, description="Threads of a training on a CPU; empty uses half of the cores."
    )
    train_nice: int = Field(
        19, ge=0, le=19, description="How far a training gives way to other work on the CPU: 0 not at all, 19 always."
    )
    train_save_seconds: float = Field(
        60, ge=0, description="Seconds between two saved states of a training; a killed one loses the steps since."
    )

    max_upload_mb: float = Field(50, gt=0, description="Largest upload, in MB.")
    max_batch_mb: float = Field(200, gt=0, description="Largest batch, in MB.")
    max_batch_files: int = Field(50, ge=1, description="Most images in a batch.")

    hf_token: str | None = Field(
        None, repr=False, description="For gated models: a token of an account that has accepted their licence."
    )
    hf_endpoint: str | None = Field(None, description="Another hub, or a mirror of the usual one.")

    num_gpus_to_use: int | None = Field(None, ge=0, description="GPUs to use, from the first; empty uses all.")
    device_memory_gb: float | None = Field(
        None,
        gt=0,
        description="Gigabytes of each GPU, or of the machine's memory without GPUs, that loaded models may take: "
        "families are loaded when they are needed, and those that were not used for the longest time make room "
        "(docs/deploying.md). Empty: all stay loaded.",
    )
    cpu_precision: Literal["fp32", "auto"] = Field(
        "fp32",
        description="Numbers that networks compute with on a CPU. auto: bfloat16 for upscalers and VAE decoders, where "
        "the CPU has instructions for it and openvino is installed (pip install 'darkroom[openvino]'); else fp32.",
    )

    engine: Literal["triton", "local"] | None = Field(
        None,
        description="What runs the models: triton, or local, which is one process of Python for machines without "
        "Triton (docs/local-engine.md). Empty: triton where it is installed, else local.",
    )
    local_device: Literal["auto", "cpu"] = Field(
        "auto",
        description="What the local engine runs networks on that have no NVIDIA GPU: auto tries DirectML, CoreML and "
        "MPS where they are there, and takes the CPU if they do not work; cpu does not try.",
    )

    state_dir: Path = Field(ROOT / STATE, description="Where caches and the assembled Triton backends are kept.")
    data_dir: Path = Field(
        default_factory=lambda data: data["state_dir"] / "data",
        description="Where durable tasks and their images are kept. Empty: the folder data in STATE_DIR.",
    )
    session_dir: Path = Field(
        default_factory=lambda data: data["data_dir"] / "session_data",
        description="Where the sessions that LoRAs are trained in are kept, one folder each. Empty: the folder "
        "session_data in DATA_DIR.",
    )
    lora_dir: Path = Field(
        default_factory=lambda data: data["data_dir"] / "loras",
        description="The library of LoRA files, which requests name. Empty: the folder loras in DATA_DIR.",
    )
    lora_max_mb: float = Field(300, gt=0, description="Megabytes of the largest LoRA file that can be uploaded.")
    lora_cache_dir: Path = Field(
        default_factory=lambda data: data["state_dir"] / "loras",
        description="Where LoRAs are kept for the networks to read. Empty: the folder loras in STATE_DIR.",
    )
    lora_cache_gb: float = Field(
        10, gt=0, description="Gigabytes of that folder; over it, what was not used for the longest time is deleted."
    )
    lora_memory_gb: float = Field(
        2, gt=0, description="Gigabytes of memory that each instance of a network takes for LoRAs, where it takes any."
    )
    model_repository: Path = Field(
        default_factory=lambda data: _default_repository(data),
        description="The model repository. Empty: model_repository, or on a machine with GPUs one in STATE_DIR that "
        "./start.sh makes.",
    )

    families: Names = Field(
        (), description="The model families to use, separated by commas; empty uses all that there are."
    )
    families_path: Path | None = Field(
        None,
        description="A folder with further families: the packages pipelines/NAME and exporters/NAME in it.",
    )

    _family_settings: dict[str, FamilySettings] = PrivateAttr(default_factory=dict)

    @field_validator("cors_origins", "trusted_hosts", "families", "model_aliases", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return split_at_commas(value)

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "sqlite:///")):
            raise ValueError(f"must begin with postgresql:// or sqlite:///; got {value.partition(':')[0]!r}")
        return value

    @field_validator("submit_operation")
    @classmethod
    def _known_operation(cls, value: str) -> str:
        if value == cls.model_fields["submit_operation"].default:
            return value
        from darkroom.registry import families  # whose pipelines a program that only reads settings can do without

        models = [family.pipeline.name for family in families().values() if family.operation == "generate"]
        names = ("auto", "generate", *models)
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}; got {value!r}")
        return value

    @field_validator("submit_enlarge")
    @classmethod
    def _known_upscaler(cls, value: str) -> str:
        if value == cls.model_fields["submit_enlarge"].default:
            return value
        from darkroom.registry import families

        upscalers = [family.request for family in families().values() if family.operation == "upscale"]
        names = ("none", *(word for kind in upscalers for word in kind.fields()["model"].allowed_words()))
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}; got {value!r}")
        return value

    @field_validator("model_aliases")
    @classmethod
    def _names_and_models(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for alias in value:
            name, _, model = alias.partition("=")
            if not name.strip() or not model.strip():
                raise ValueError(f"must be NAME=MODEL, separated by commas; got {alias!r}")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("families")
    @classmethod
    def _known_families(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        there = pipelines.family_names()
        for name in value:
            if name not in there:
                raise ValueError(f"must be of {', '.join(there)}; got {name!r}")
        return value

    @field_validator(
        "model_repository",
        "state_dir",
        "data_dir",
        "session_dir",
        "lora_dir",
        "lora_cache_dir",
        "log_dir",
        "families_path",
    )
    @classmethod
    def _from_the_home(cls, value: Path | None) -> Path | None:
        return None if value is None else ROOT / value

    @field_validator("families_path")
    @classmethod
    def _folder_that_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"must be a folder that is there; got {str(value)!r}")
        return value

    @field_validator("device_memory_gb")
    @classmethod
    def _one_service_alone(cls, value: float | None, info: ValidationInfo) -> float | None:
        apart = [name for name in ("serve_only", "triton_grpc") if info.data.get(name)]
        if value is not None and apart:
            raise ValueError(
                "needs the proxy and its only Triton in one `darkroom serve`: it cannot be set together with "
                f"{' and '.join(apart).upper()}"
            )
        return value

    @model_validator(mode="after")
    def _read_families(self) -> Self:
        env_file = self.model_config.get("env_file")
        self._family_settings = {name: one(_env_file=env_file) for name, one in settings_classes().items()}
        return self

    @property
    def family_settings(self) -> Mapping[str, FamilySettings]:
        """The settings of each family, by its name."""
        return self._family_settings

    def family(self, name: str) -> FamilySettings:
        """The settings of one family; its own code reads them typed, with `FamilySettings.of`.

        :raises LookupError: there is no such family, or it has no settings.
        """
        if name not in self._family_settings:
            raise LookupError(f"family must be one of {', '.join(self._family_settings)}; got {name!r}")
        return self._family_settings[name]

    def warnings(self) -> list[str]:
        """What the log should say of these settings: a line for each old name of a variable that was read."""
        env_file = self.model_config.get("env_file")
        return [
            f"{old} is the old name of {one.variable(field)}; please rename it."
            for one in self._family_settings.values()
            for field, old in one.old_names(env_file).items()
        ]

    @property
    def database(self) -> str:
        """The URL of the database of tasks, keys and the audit trail: DATABASE_URL, else a SQLite file in DATA_DIR."""
        return self.database_url or f"sqlite:///{self.data_dir / 'darkroom.db'}"

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that the networks run on; none means the CPU."""
        return usable_gpus(self.num_gpus_to_use)

    def environment(self) -> dict[str, str]:
        """These settings and those of the families as environment variables, for child processes."""
        texts = {name.upper(): as_text(value) for name, value in self if value is not None}
        of_families = [one.environment() for one in self._family_settings.values()]
        return {**os.environ, **texts, **{name: value for env in of_families for name, value in env.items()}}


def _default_repository(data: dict[str, Any]) -> Path:
    """The one in the home folder is for CPUs (a checkout has it committed); with GPUs, `python -m exporters prepare`
    renders another one."""
    gpus = usable_gpus(data.get("num_gpus_to_use"))
    return Path(data["state_dir"]) / "model_repository" if gpus else ROOT / "model_repository"
