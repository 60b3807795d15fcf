"""The devices of the machine, as the driver reports them."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil
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


def core_count() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    visible, there = os.environ.get("CUDA_VISIBLE_DEVICES"), len(gpu_names())
    names = [str(number) for number in range(there)] if visible is None else visible.split(",")
    count = len(list(takewhile(partial(_may_be_a_gpu, there=there), names)))
    return tuple(range(count if limit is None else min(limit, count)))


def _may_be_a_gpu(name: str, there: int) -> bool:
    """Whether CUDA takes this part of CUDA_VISIBLE_DEVICES for a GPU: it looks no further than the first that is none
    (CUDA C++ Programming Guide, environment variables)."""
    name = name.strip()
    return int(name) < there if name.isdecimal() else name.startswith(("GPU-", "MIG-"))


def serving_device(providers: Iterable[str]) -> dict[str, str]:
    """`{"type", "name"}` of the device that the networks run on, from the providers they run with."""
    providers = list(providers)
    on_gpu = any(provider.startswith(("CUDA", "Tensorrt")) for provider in providers)
    for kind, start in (("directml", "Dml"), ("coreml", "CoreML")):
        if any(provider.startswith(start) for provider in providers):
            return {"type": kind, "name": cpu_name()}
    names = gpu_names()
    return {"type": "cuda", "name": names[0]} if on_gpu and names else {"type": "cpu", "name": cpu_name()}


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """What the driver says of one GPU.

    :param used, total: bytes of its memory, of all processes.
    :param processes: bytes by process id; None where the driver does not say (in a container, on Windows).
    """

    name: str
    used: int
    total: int
    processes: Mapping[int, int | None]


def gpu_info(limit: int | None) -> list[dict[str, Any]]:
    """The GPUs that the service may use, as `/status` shows them; empty without any. Asks the driver: call it in a
    thread.

    `memory_allocated` is what the processes of this service have, in GiB, where the driver tells it by process, and
    else what the whole device has in use; `memory_scope` says which. `memory_reserved` is what the device has in use
    in all, ours and others'.
    """
    readings = _readings(limit)
    ours = _service_processes() if readings else frozenset()
    return [describe_gpu(number, reading, ours) for number, reading in enumerate(readings)]


def gpu_memory(limit: int | None) -> dict[str, tuple[int, int]]:
    """Bytes (used, total) of the GPUs that the service may use, of all processes, by "gpu0" and so on. Asks the driver:
    call it in a thread."""
    return {f"gpu{number}": (one.used, one.total) for number, one in enumerate(_readings(limit))}


def gpu_processes(limit: int | None) -> list[dict[int, int]]:
    """Bytes that processes have of each GPU that the service may use, by process id, as far as the driver tells. Asks
    the driver: call it in a thread."""
    return [{pid: used for pid, used in one.processes.items() if used is not None} for one in _readings(limit)]


def _readings(limit: int | None) -> list[GpuReading]:
    """What the driver says of each GPU that may be used; none where it does not answer."""
    names = _driver_names(usable_gpus(limit))
    if not names:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_read(_handle(name)) for name in names]
    except pynvml.NVMLError as error:
        log.warning("the NVIDIA driver does not answer: %s", error)
        return []
    finally:
        pynvml.nvmlShutdown()


def describe_gpu(number: int, reading: GpuReading, ours: frozenset[int]) -> dict[str, Any]:
    """One entry of `gpu_info`.

    :param number: as CUDA counts.
    :param ours: the ids of this service's processes.
    """
    mine = [used for process, used in reading.processes.items() if process in ours]
    told = [used for used in mine if used is not None]
    by_process = bool(told) and len(told) == len(mine)
    return {
        "gpu_id": number,
        "name": reading.name,
        "memory_allocated": _gib(sum(told) if by_process else reading.used),
        "memory_reserved": _gib(reading.used),
        "memory_total": _gib(reading.total),
        "memory_scope": "service" if by_process else "device",
    }


def _gib(size: int) -> float:
    return round(size / (1 << 30), 3)


def _read(handle: Any) -> GpuReading:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    processes: dict[int, int | None] = {}
    with suppress(pynvml.NVMLError):  # not every driver and every user may ask
        processes = {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    name = str(pynvml.nvmlDeviceGetName(handle))
    return GpuReading(name=name, used=memory.used, total=memory.total, processes=processes)


def _handle(name: str) -> Any:
    by_number = name.isdecimal()
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if by_number else pynvml.nvmlDeviceGetHandleByUUID(name)


def _driver_names(usable: Iterable[int]) -> list[str]:
    """What the driver calls the GPUs that CUDA counts as `usable`: numbers, or what CUDA_VISIBLE_DEVICES says."""
    shown = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return [shown[number] if shown else str(number) for number in usable]


def _service_processes() -> frozenset[int]:
    """This process, and the engine that was started beside it with all its stubs."""
    own = psutil.Process()
    family = [own]
    with suppress(psutil.Error):
        parent = own.parent()
        for sibling in parent.children() if parent else ():
            if sibling.name() == "tritonserver" or "darkroom.local" in sibling.cmdline():
                family += [sibling, *sibling.children(recursive=True)]
    return frozenset(process.pid for process in family)
