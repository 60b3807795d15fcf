"""What the machine has, read from the driver and never invented."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pynvml

log = logging.getLogger(__name__)


@cache
def cpu_name() -> str:
    """The processor's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def gpu_names() -> tuple[str, ...]:
    """The names of the NVIDIA GPUs, in the driver's order; empty where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
    except pynvml.NVMLError as error:
        log.warning("the NVIDIA driver does not answer: %s", error)
        return ()
    finally:
        pynvml.nvmlShutdown()


def usable_gpus(limit: int | None) -> tuple[int, ...]:
    """The numbers of the GPUs to use, as CUDA counts them: at most `limit`, without those that are hidden from it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = len(gpu_names()) if visible is None else len([part for part in visible.split(",") if part.strip()])
    count = min(shown, len(gpu_names()))
    return tuple(range(count if limit is None else min(limit, count)))


def serving_device(providers: Iterable[str]) -> dict[str, str]:
    """`{"type", "name"}` of the device that the networks run on, from the providers they run with."""
    on_gpu = any(provider.startswith(("CUDA", "Tensorrt")) for provider in providers)
    names = gpu_names()
    return {"type": "cuda", "name": names[0]} if on_gpu and names else {"type": "cpu", "name": cpu_name()}
