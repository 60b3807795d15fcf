"""What runs the transformer for the Triton model: this process on one device, or ranks on several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.parallel.devices import device_of, kind_of
from darkroom.parallel.job import Timeouts
from darkroom.pipelines.hidream.distributed.transformer import DistributedTransformer
from darkroom.pipelines.hidream.transformer import load_transformer, predict

if TYPE_CHECKING:
    from diffusers import HiDreamImageTransformer2DModel


class Executor(Protocol):
    """What the Triton model runs a batch on: `predict` bound to a model that is held somewhere.

    :raises torch.OutOfMemoryError: the device had no memory for this batch.
    """

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor: ...

    def close(self) -> None:
        """Free all resources; it is not called again afterwards."""

    def status(self) -> dict[str, Any]:
        """The status to show: at least "device" and "dtype", as text."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, from any thread, when `status` has changed."""


class LocalExecutor:
    """The whole model on one device of this process."""

    def __init__(self, model: HiDreamImageTransformer2DModel) -> None:
        self._model = model

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predict(self._model, inputs)

    def close(self) -> None:
        del self._model

    def status(self) -> dict[str, Any]:
        weight = next(self._model.parameters())
        return {"device": str(weight.device), "dtype": str(weight.dtype).removeprefix("torch.")}

    def watch(self, changed: Callable[[], None]) -> None:
        """Does nothing: the device never changes."""


def make_executor(
    folder: Path,
    *,
    device_type: str,
    devices: Sequence[int],
    dtype: torch.dtype,
    compiled: bool,
    canary_timeout: float,
) -> Executor:
    """The executor that the Triton model asks for: on one device in this process, on several in ranks (decision 12).

    :param device_type: cpu, cuda or npu.
    :param devices: their numbers, 1, 2, 4 or 8; on a CPU only the count matters.
    :param compiled: with `torch.compile`, on one device only: minutes at the first calls of every size. Off, as the
        experts' uneven shares break the graph in every layer.
    :param canary_timeout: seconds after which a prediction counts as hanging.
    :raises InvalidInput: an unknown type, a number of devices without a layout, or `compiled` with several devices.
    :raises OSError, RuntimeError: as `load_transformer`.
    """
    if len(devices) != 1:
        if compiled:
            raise InvalidInput("torch.compile is for one device", param="compiled")
        timeouts = Timeouts.within(canary_timeout)
        return DistributedTransformer(folder, device_type=device_type, devices=devices, dtype=dtype, timeouts=timeouts)
    model = load_transformer(folder, device=device_of(kind_of(device_type), devices, 0), dtype=dtype)
    if compiled:
        model.compile(dynamic=True)
    return LocalExecutor(model)
