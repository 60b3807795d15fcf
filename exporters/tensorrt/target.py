"""The target of an engine: it belongs to one kind of GPU and one version of TensorRT."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pynvml

from exporters.errors import ExportError
from exporters.tensorrt.graph import EnginePrecision


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that CUDA programs see.

    :param capability: its compute capability, such as "9.0".
    """

    name: str
    capability: str

    @property
    def arch(self) -> str:
        """The capability as file names carry it: "sm90"."""
        return "sm" + self.capability.replace(".", "")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of GPU with a version of TensorRT ("10.13.3.9")."""

    gpu: Gpu
    tensorrt: str

    def engine_name(self, precision: EnginePrecision) -> str:
        """The engine's file name: "model_fp16_sm90_trt10.13.plan"."""
        return engine_name(precision, self.gpu.arch, ".".join(self.tensorrt.split(".")[:2]))

    @property
    def timing_name(self) -> str:
        """The file name of the timing cache, which no other GPU and no other version can use."""
        return f"timing_{self.gpu.arch}_trt{self.tensorrt}.cache"


def engine_name(precision: EnginePrecision, arch: str, version: str) -> str:
    """An engine's file name from its parts."""
    return f"model_{precision}_{arch}_trt{version}.plan"


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows this process, as CUDA_VISIBLE_DEVICES says; none where there is no driver.

    :raises ExportError: CUDA_VISIBLE_DEVICES names a GPU that is not there.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(pynvml.nvmlDeviceGetCount())] if visible is None else visible.split(",")
    try:
        return tuple(_gpu(name.strip()) for name in names if name.strip())
    except (pynvml.NVMLError, ValueError):
        raise ExportError(f"CUDA_VISIBLE_DEVICES names GPUs that are not there; got {visible!r}.") from None
    finally:
        pynvml.nvmlShutdown()


def _gpu(name: str) -> Gpu:
    """The GPU of that number, in the order of the PCI bus, or of that UUID."""
    by_uuid = name.startswith(("GPU-", "MIG-"))
    handle = pynvml.nvmlDeviceGetHandleByUUID(name) if by_uuid else pynvml.nvmlDeviceGetHandleByIndex(int(name))
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(name=str(pynvml.nvmlDeviceGetName(handle)), capability=f"{major}.{minor}")


def building_gpu() -> Gpu:
    """The GPU that TensorRT will build on: the first visible one.

    CUDA by itself counts the fastest GPU first; this makes it count as the driver does, before it starts.

    :raises ExportError: there is none.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    gpus = visible_gpus()
    if not gpus:
        raise ExportError(
            "No NVIDIA GPU is visible, and an engine is built on the GPU that will run it; --dry-run shows the plan."
        )
    return gpus[0]
