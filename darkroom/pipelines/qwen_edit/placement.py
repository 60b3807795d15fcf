"""Where a torch network of the family runs, and in what precision."""

from __future__ import annotations

import torch

from darkroom.parallel.devices import device_of, kind_of
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.serving.accelerators import MPS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def placed(kind: str, device: int, settings: Settings) -> tuple[torch.device, torch.dtype]:
    """The device of an instance, and what it computes in: fp32 on CPUs and bf16 on GPUs, if the settings say nothing.

    :param kind: Triton's instance kind, "CPU" or "GPU", or MPS.
    :param device: the number of the GPU.
    """
    where = {"GPU": torch.device("cuda", device), MPS: torch.device("mps")}.get(kind, torch.device("cpu"))
    return where, dtype_on(where.type, settings)


def dtype_on(device_type: str, settings: Settings) -> torch.dtype:
    """What networks compute in on a type of device."""
    return _DTYPES[settings.dtype or ("float32" if device_type == "cpu" else "bfloat16")]


def transformer_placed(kind: str, device: int, settings: Settings) -> tuple[torch.device, torch.dtype]:
    """As `placed`, of a transformer that is not divided and may have a device of its own."""
    if not (settings.device_type or settings.devices):
        return placed(kind, device, settings)
    device_type = device_type_of(kind, settings)
    where = device_of(kind_of(device_type), settings.devices or (max(device, 0),), 0)
    return where, dtype_on(device_type, settings)


def device_type_of(kind: str, settings: Settings) -> str:
    """The type of the devices that the settings name for the transformer: by default that of the instance."""
    return settings.device_type or ("cuda" if kind == "GPU" else "cpu")
