"""A network that ranks hold together, behind one call; on one device it goes on when they fail."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from darkroom.errors import InvalidInput
from darkroom.parallel.devices import device_of, kind_of
from darkroom.parallel.job import RanksJob, Timeouts
from darkroom.parallel.layout import Layout
from darkroom.parallel.ranks import Ranks, RanksFailed, for_clients
from darkroom.serving.host import Gauge

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


def rank_gauges(status: Mapping[str, Any]) -> list[Gauge]:
    """What Triton's metrics say of a network's ranks; nothing of one that was asked to run on one device.

    :param status: of `DividedNetwork.status`, or without "layout".
    """
    sizes = status.get("layout", {})
    if all(size == 1 for size in sizes.values()):
        return []
    layout = {name: str(size) for name, size in sizes.items()}
    gauges = [Gauge("darkroom_network_ranks", "ranks of a network that work", status["healthy"], layout)]
    if status["reason"]:
        text = "when the ranks of a network failed, in seconds since the epoch"
        reason = {"reason": for_clients(status["reason"])}
        gauges.append(Gauge("darkroom_network_ranks_failed", text, status["failed_at"], reason))
    return gauges


class DividedNetwork(ABC):
    """A network on several devices or on one. A subclass says which one it is.

    With one device, or once the ranks have failed, the model is loaded into this process and predicts here: the first
    call after a failure takes as long as that, and is answered all the same. Ranks that failed stay away.

    :param folder: config.json and safetensors.
    :param device_type: cpu, cuda or npu. On npu this process needs `devices.environment` before torch is imported.
    :param devices: their numbers, as many as the layout has ranks; on a CPU only the count matters.
    :param layout: of the ranks.
    :raises InvalidInput: an unknown type of device.
    :raises OSError: the weights are not there.
    """

    PROGRAM: ClassVar[str]
    """What ranks run, "module:function"; its arguments are `arguments()`."""
    ANSWER_AS: ClassVar[str]
    """The input whose shape the answer has."""

    def __init__(
        self,
        folder: Path,
        *,
        device_type: str,
        devices: Sequence[int],
        dtype: torch.dtype,
        layout: Layout,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.folder, self.dtype = folder, dtype
        self._kind, self._devices, self._layout = kind_of(device_type), tuple(devices), layout
        self._loading = threading.Lock()
        self._model: Any = None
        self._alone = 0  # index of the device that holds, or will hold, the whole model
        self._ranks: Ranks | None = None
        self._reason: str | None = None
        self._failed_at: float | None = None
        self._changed: Callable[[], None] = lambda: None
        if self._layout.size > 1:
            self._start(timeouts or Timeouts())

    @abstractmethod
    def check_divisible(self, layout: Layout) -> None:
        """:raises InvalidInput: the weights cannot be divided so."""

    @abstractmethod
    def check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """:raises InvalidInput: the inputs do not fit together, or not the model: that would fail all ranks."""

    @abstractmethod
    def load(self, device: torch.device) -> Any:
        """The whole model, on one device. :raises RuntimeError: there is no room for it, or it is another model's."""

    @abstractmethod
    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """The prediction of the whole model."""

    def arguments(self) -> dict[str, Any]:
        """Those of the program."""
        return {"folder": str(self.folder.resolve()), "dtype": str(self.dtype).removeprefix("torch.")}

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The prediction for B rows; thread safe, one call at a time on the ranks.

        :param inputs: as of `predict`.
        :returns: float32.
        :raises InvalidInput: the inputs do not fit together, or not the model.
        :raises torch.OutOfMemoryError: from one device; ranks without memory are given up for one device.
        """
        self.check_inputs(inputs)
        if self._ranks is not None and self._reason is None:
            try:
                return self._ranks.call(inputs, inputs[self.ANSWER_AS].shape)
            except (RanksFailed, OSError) as error:  # the latter of the memory that leader and ranks share
                self._give_up(str(error))
        return self._predict_alone(inputs)

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, from any thread, when the ranks have failed, also between two calls."""
        self._changed = changed

    def status(self) -> dict[str, Any]:
        """The current placement of the model.

        mode "distributed" or "single"; reason: why not distributed, None where one device was asked for; failed_at:
        since when not, in seconds since the epoch; layout: the length of each axis; device and dtype; ranks: rank, pid,
        device, parameters, alive, last_beat in seconds ago, also of past ones; healthy: how many ranks work.
        """
        reason = self._reason or (self._ranks.failure if self._ranks else None)
        distributed = self._ranks is not None and reason is None
        numbers = self._devices if distributed else (self._devices[self._alone],)
        device = "cpu" if self._kind.name == "cpu" else ",".join(f"{self._kind.name}:{number}" for number in numbers)
        ranks = self._ranks.status() if self._ranks else []
        return {
            "mode": "distributed" if distributed else "single",
            "reason": reason,
            "failed_at": (self._ranks.failed_at if self._ranks else None) or self._failed_at,
            "layout": dict(self._layout.axes),
            "device": device,
            "dtype": str(self.dtype).removeprefix("torch."),
            "ranks": ranks,
            "healthy": sum(rank["alive"] for rank in ranks) if distributed else 0,
        }

    def close(self) -> None:
        """End the ranks and let go of the model, after the call at hand. It must not be called again afterwards."""
        if self._ranks is not None:
            self._ranks.close()
        with self._loading:
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, timeouts: Timeouts) -> None:
        job = RanksJob(
            program=self.PROGRAM,
            arguments=self.arguments(),
            layout=self._layout,
            device_type=self._kind.name,
            devices=self._devices,
            timeouts=timeouts,
        )
        try:
            self.check_divisible(self._layout)
            self._ranks = Ranks(job, on_failure=lambda: self._changed())
            self._ranks.wait_ready()
        except (RanksFailed, InvalidInput) as error:
            self._give_up(str(error))
        except OSError as error:
            self._give_up(f"no place for what leader and ranks share: {error.strerror or error}")
        if self._reason is not None:
            self._load()  # now, while there is time: a canary may wait less long than a large model takes

    def _give_up(self, reason: str) -> None:
        self._reason, self._failed_at = reason, time.time()
        if self._ranks is not None:
            self._ranks.close()  # their memory may be on the device that goes on
        log.warning("the network goes on with one device: %s", reason)
        self._changed()

    def _predict_alone(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.predict(self._load(), inputs)

    def _load(self) -> Any:
        """The whole model, in this process."""
        with self._loading:
            while self._model is None:
                device = device_of(self._kind, self._devices, self._alone)
                try:
                    self._model = self.load(device)
                except RuntimeError as error:  # it may be the one that the ranks failed of, or have no room
                    if self._alone + 1 == len(self._devices):
                        raise
                    log.warning("the network cannot be loaded to %s, trying the next: %s", device, error)
                    self._alone += 1
            return self._model
