"""Python client of the Darkroom image service.

from darkroom_client import Client

with Client("http://127.0.0.1:8000") as darkroom:
    large = darkroom.upscale("photo.jpg")
    made = darkroom.generate("a cat on a blue background", seed=42)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .errors import (
        Busy,
        Cancelled,
        DarkroomError,
        Forbidden,
        InvalidRequest,
        RateLimited,
        Refused,
        ServerError,
        TimedOut,
        Unauthorized,
        Unavailable,
    )
    from .models import (
        BatchItem,
        EditOptions,
        Format,
        GeneratedImage,
        GenerateOptions,
        GenerateResult,
        Health,
        ImageInput,
        Info,
        ModelInfo,
        PngInfo,
        Preview,
        Progress,
        Status,
        TrainOptions,
        UpscaleResult,
    )
    from .models_edit import EditModeInfo
    from .models_loras import LoraInfo, LoraRead, SessionInfo, SessionLora, TrainingInfo
    from .models_served import ServedModel
    from .models_tasks import TaskInfo, TaskPicture

__all__ = [
    "AsyncClient",
    "BatchItem",
    "Busy",
    "Cancelled",
    "Client",
    "DarkroomError",
    "EditModeInfo",
    "EditOptions",
    "Forbidden",
    "Format",
    "GenerateOptions",
    "GenerateResult",
    "GeneratedImage",
    "Health",
    "ImageInput",
    "Info",
    "InvalidRequest",
    "LoraInfo",
    "LoraRead",
    "ModelInfo",
    "PngInfo",
    "Preview",
    "Progress",
    "RateLimited",
    "Refused",
    "ServedModel",
    "ServerError",
    "SessionInfo",
    "SessionLora",
    "Status",
    "TaskInfo",
    "TaskPicture",
    "TimedOut",
    "TrainOptions",
    "TrainingInfo",
    "Unauthorized",
    "Unavailable",
    "UpscaleResult",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `darkroom --help` passes here and needs no HTTP stack."""
    if name in __all__:
        for module in (
            ".errors",
            ".models",
            ".models_edit",
            ".models_loras",
            ".models_served",
            ".models_tasks",
            ".client",
        ):
            found = import_module(module, __name__)
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
