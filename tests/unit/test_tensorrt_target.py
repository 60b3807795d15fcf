"""Names of TensorRT engines, and the GPUs for which they are built. Nothing here needs TensorRT or a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporters.errors import ExportError
from exporters.tensorrt import target
from exporters.tensorrt.target import Gpu, Target
from tests.engines import HERE


def test_engine_names_carry_precision_architecture_and_version() -> None:
    assert HERE.engine_name("fp16") == "model_fp16_sm90_trt10.13.plan"
    assert replace(HERE, tensorrt="11.4.0.106").engine_name("bf16") == "model_bf16_sm90_trt11.4.plan"
    assert Target(gpu=Gpu(name="x", capability="12.0"), tensorrt="10.9").engine_name("fp32") == (
        "model_fp32_sm120_trt10.9.plan"
    )
    assert HERE.timing_name == "timing_sm90_trt10.13.3.9.cache"


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, ["A", "B"]), ("1", ["B"]), ("1,0", ["B", "A"]), ("GPU-b", ["B"]), ("", []), (" 0 ", ["A"])],
)
def test_visible_gpus_follow_cuda_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[str]
) -> None:
    """The driver is replaced: no GPU is here."""
    monkeypatch.setattr(target, "pynvml", Driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in target.visible_gpus()] == found


def test_visible_gpus_that_are_missing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "pynvml", Driver())
    for value in ("2", "first", "GPU-x"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(ExportError, match=f"CUDA_VISIBLE_DEVICES names GPUs that are not there; got '{value}'"):
            target.visible_gpus()


class Driver:
    """Two GPUs, as pynvml describes them."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    nvmlShutdown = nvmlInit  # noqa: N815

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index > 1:
            raise self.NVMLError
        return "AB"[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-b":
            raise self.NVMLError
        return "B"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:  # noqa: N802
        return {"A": (8, 0), "B": (9, 0)}[handle]
