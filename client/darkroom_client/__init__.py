"""Python client of the Darkroom image service.

from darkroom_client import Client

with Client("http://127.0.0.1:8000") as darkroom:
    result = darkroom.upscale("photo.jpg")
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
        InvalidRequest,
        ServerError,
        TimedOut,
        Unavailable,
    )
    from .models import BatchItem, Format, Health, ImageInput, Info, ModelInfo, Progress, UpscaleResult

__all__ = [
    "AsyncClient",
    "BatchItem",
    "Busy",
    "Cancelled",
    "Client",
    "DarkroomError",
    "Format",
    "Health",
    "ImageInput",
    "Info",
    "InvalidRequest",
    "ModelInfo",
    "Progress",
    "ServerError",
    "TimedOut",
    "Unavailable",
    "UpscaleResult",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `darkroom --help` passes here and needs no HTTP stack."""
    if name in __all__:
        for module in (".errors", ".models", ".client"):
            found = import_module(module, __name__)
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
