"""Where a torch network of the family runs, and in what precision."""

from __future__ import annotations

import torch

from darkroom.pipelines.qwen_edit.settings import Settings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def placed(kind: str, device: int, settings: Settings) -> tuple[torch.device, torch.dtype]:
    """The device of an instance, and what it computes in: fp32 on CPUs and bf16 on GPUs, if the settings say nothing.

    :param kind: Triton's instance kind, "CPU" or "GPU".
    :param device: the number of the GPU.
    """
    on_gpu = kind == "GPU"
    wanted = settings.dtype or ("bfloat16" if on_gpu else "float32")
    return torch.device("cuda", device) if on_gpu else torch.device("cpu"), _DTYPES[wanted]
