"""Where a torch network of the family runs, and in what precision."""

from __future__ import annotations

import torch

from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.serving.accelerators import MPS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def placed(kind: str, device: int, settings: Settings) -> tuple[torch.device, torch.dtype]:
    """The device of an instance, and what it computes in: fp32 on CPUs and bf16 on GPUs, if the settings say nothing.

    :param kind: Triton's instance kind, "CPU" or "GPU", or MPS.
    :param device: the number of the GPU.
    """
    where = {"GPU": torch.device("cuda", device), MPS: torch.device("mps")}.get(kind, torch.device("cpu"))
    wanted = settings.dtype or ("float32" if where.type == "cpu" else "bfloat16")
    return where, _DTYPES[wanted]
