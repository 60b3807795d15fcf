"""What answers in JSON look like, for the documentation. Answers may have more than is written here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from darkroom.errors import walk
from proxy.errors import CODES
from proxy.tasks.models import PRIORITIES, State

_CODES = (*CODES.values(), "http_error", *(kind.code for kind in walk()))
_PROGRESS = Field(ge=0, le=100, description="Percent; goes with the steps.")


class Answer(BaseModel):
    """The base of all."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})


class ErrorDetails(Answer):
    """What is wrong."""

    code: str = Field(description=f"A name that does not change, such as {', '.join(sorted(set(_CODES)))}.")
    message: str = Field(description="One sentence for people: the field, its range, and what came.")
    param: str | None = Field(description="The field that is at fault.")
    rule: str = Field("", description="Of `moderation_blocked`: the rule of the content policy; absent elsewhere.")


class Error(Answer):
    """Every refusal and every failure."""

    detail: str = Field(description="As `error.message`.")
    error: ErrorDetails


class IgnoredField(Answer):
    """A field that is not known and was ignored."""

    field: str
    message: str
    suggestion: str | None = Field(description="The name that was probably meant.")


class Warned(Answer):
    """An answer to a request whose fields are looked at."""

    warnings: list[IgnoredField] = Field(
        [], description="Fields that are not known, and what the content policy changed; absent where there are none."
    )


class Device(Answer):
    """What the models run on."""

    type: str
    name: str


class FamilyHealth(Answer):
    """State of a pipeline and the networks that it needs; `failing` names what may be the reason."""

    ready: bool
    loaded: bool
    ready_for: float | None
    reason: str
    retry_after: int | None
    canary_failures: int
    failing: list[str]
    models: list[str]


class OneHealth(Answer):
    """State of one family of models; only `status` and `reason` before Triton is there."""

    status: Literal["healthy", "unhealthy", "draining"]
    reason: str
    ready: bool | None = None
    loaded: bool | None = None
    ready_for: float | None = None
    retry_after: int | None = None
    canary_failures: int | None = None
    failing: list[str] | None = None
    models: list[str] | None = None


class Health(Answer):
    """State of the service."""

    status: Literal["healthy", "unhealthy", "draining"]
    version: str
    darkroom_version: str
    pipeline_ready: bool
    ready_for: float | None
    queue_length: int
    active_tasks: int
    total_tasks: int
    models: dict[str, bool]
    reason: str | None
    canary_failures: int
    families: dict[str, FamilyHealth]


class ApiHealth(Answer):
    """State of the upscaler."""

    status: Literal["healthy", "unhealthy", "draining"]
    model_loaded: bool
    device: Device


class Root(Answer):
    """Links to the endpoints."""

    service: str
    version: str
    description: str
    status: Literal["running", "starting"]
    operation: str
    endpoints: dict[str, str]


class Gpu(Answer):
    """Memory in GiB."""

    gpu_id: int
    name: str
    memory_allocated: float
    memory_reserved: float


class TritonStatus(Answer):
    """State of one inference server; `active_calls` are those of this proxy."""

    address: str
    ready: bool
    reason: str
    active_calls: int
    families: dict[str, FamilyHealth]


class Status(Answer):
    """Workers, queue and devices."""

    active_workers: int
    task_queue_size: int
    result_queue_size: int
    pending_tasks: int
    total_gpus: int
    gpu_info: list[Gpu]
    active_tasks: int
    finished_tasks: int
    max_concurrent_tasks: int
    max_queue_size: int
    draining: bool
    ready: bool
    reason: str | None
    uptime_seconds: float
    darkroom_version: str
    families: dict[str, FamilyHealth]
    tritons: list[TritonStatus]
    models: dict[str, Any]
    generate: dict[str, Any] | None
    edit: dict[str, Any] | None


class Model(Answer):
    """A model, or a family that is not installed."""

    name: str = Field(description="What requests say as `model`.")
    family: str
    title: str
    operations: list[str]
    installed: bool
    ready: bool
    loaded: bool = Field(description="false: unloaded; a request waits until it is loaded (DEVICE_MEMORY_GB).")
    default_for: list[str] = Field(description="The operations of requests that name no model.")
    checkpoint: dict[str, Any] | None = None
    fields: dict[str, Any] | None = Field(None, description="JSON Schema of each field in this installation.")
    limits: dict[str, Any] | None = None
    hint: str | None = Field(None, description="How to install it.")


class Models(Answer):
    """Every model."""

    models: list[Model]


class UpscaleInfo(Answer):
    """What the upscaler can do."""

    device: Device
    default_model: str
    models: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    tile: int
    tile_pad: int
    precision: str | None
    formats: list[str]
    limits: dict[str, Any]


class Generated(Warned):
    """Images and what they were made with."""

    success: Literal[True]
    images: list[str] = Field(description="Data URLs.")
    seed: int = Field(description="Of the first image.")
    seeds: list[int]
    parameters: dict[str, Any] = Field(description="Of the first image, with all defaults.")
    width: int
    height: int
    media_type: str
    control_map: str | None = Field(None, description="Data URL of what the ControlNet read; only with control.")


class Txt2img(Warned):
    """Images and what they were made with."""

    images_base64: list[str] = Field(description="PNGs in base64.")
    seed: int = Field(description="Of the first image.")
    seeds: list[int]
    parameters: dict[str, Any] = Field(description="Of the first image, with all defaults.")


class UpscaledFile(Answer):
    """What became of one file of a batch: `image` and its details, or `error`."""

    filename: str | None
    success: bool
    image: str | None = Field(None, description="Data URL.")
    error: ErrorDetails | None = None


class UpscaledBatch(Warned):
    """One entry per file, in their order."""

    results: list[UpscaledFile]


class PngInfo(Warned):
    """What an image says of how it was made; absent parts are null."""

    parameters: str | None
    fields: dict[str, Any] | None
    darkroom: dict[str, Any] | None
    chunks: dict[str, str]


class TaskResult(Answer):
    """A file that a task made."""

    name: str
    filename: str | None = Field(
        None, description="What the file is called; only there where it has a name of its own."
    )
    media_type: str
    bytes: int
    details: dict[str, Any]
    url: str


class TaskView(Warned):
    """A task. Times are ISO 8601 in UTC."""

    task_id: str
    operation: str = Field(description="The operation that the request named.")
    model: str | None = Field(description="The model that runs it; null if the operation needs no model.")
    status: State
    priority: str = Field(json_schema_extra={"enum": list(PRIORITIES)})
    progress: int = _PROGRESS
    step: int
    total_steps: int
    queue_position: int | None = Field(description="1 for the next one; null for one that does not wait.")
    loading: str | None = Field(None, description="The model that it waits for until it is loaded (DEVICE_MEMORY_GB).")
    estimated_time: float = Field(description="Seconds until it is done, as far as one can tell.")
    attempts: int
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    processing_time: float | None = Field(description="Seconds.")
    result_urls: list[str]
    results: list[TaskResult]
    error: ErrorDetails | None


class TaskPage(Answer):
    """The newest tasks of a client."""

    tasks: list[TaskView]


class Submitted(Warned):
    """A request that was accepted."""

    task_id: str
    status: State
    estimated_time: int = Field(description="Seconds.")
    message: str


class BatchSubmitted(Warned):
    """Requests that were accepted, in their order."""

    task_ids: list[str]
    tasks: list[Submitted]
    total: int
    message: str


class SubmittedStatus(Answer):
    """What became of a submitted image."""

    task_id: str
    status: State
    progress: int = _PROGRESS
    result_urls: list[str]
    processing_time: float | None = Field(description="Seconds.")
    created_at: str | None
    completed_at: str | None
    error: str | None = Field(None, description="Why it failed; only there when it did.")


class CreatedSession(Answer):
    """A new session."""

    session_id: int


class Success(Warned):
    """It was done."""

    status: Literal["success"]


class UploadedLora(Success):
    """A LoRA file was added."""

    lora_filename: str


class SessionLora(Warned):
    """A LoRA file of a session."""

    session_id: str
    lora_filename: str
    lora_base64: str


class StartedTraining(Warned):
    """A training that was accepted."""

    status: Literal["started"]
    task_id: str = Field(description="Of the task that trains; see `GET /tasks/{task_id}`.")


class SessionTraining(Answer):
    """How far the newest training of a session is."""

    status: Literal["none", "in-progress", "completed", "error"]
    progress: int = _PROGRESS
    task_id: str | None = Field(None, description="Of the task that trains; absent if there was no training.")
    lora: str | None = Field(None, description="The file in the session; only there when it has completed.")
    message: str | None = Field(None, description="Why it failed; only there when it did.")
    paused: bool | None = Field(None, description="Whether it waits to be resumed; only there while it is in progress.")


class TrainingStatus(SessionTraining, Warned):
    """How far the newest training of a session is."""

    loss: float | None = Field(
        None, description="Of the last step, null before it; only there while it runs or is paused."
    )


class ListedSession(Answer):
    """What a session holds."""

    session_id: str
    latest_lora: str | None
    image_groups: int
    training: SessionTraining


class SessionList(Answer):
    """All sessions."""

    sessions: list[ListedSession]


class DeletedSession(Warned):
    """A session was deleted."""

    status: Literal["deleted"]
    session_id: str
