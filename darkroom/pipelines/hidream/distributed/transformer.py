"""`DistributedTransformer`: HiDream's transformer, run on several devices or on one."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from darkroom.errors import InvalidInput
from darkroom.parallel.devices import device_of, kind_of
from darkroom.parallel.job import RanksJob, Timeouts
from darkroom.parallel.ranks import Ranks, RanksFailed
from darkroom.pipelines.hidream.distributed.checkpoint import check_divisible
from darkroom.pipelines.hidream.distributed.inputs import check_inputs
from darkroom.pipelines.hidream.distributed.layouts import layout_for
from darkroom.pipelines.hidream.transformer import load_transformer, predict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

_PROGRAM = "darkroom.pipelines.hidream.distributed.shard:program"


class DistributedTransformer:
    """`predict` of darkroom/pipelines/hidream/transformer.py, bound to a model that ranks hold together.

    With one device, or once the ranks have failed, the model is loaded into this process and predicts here: the first
    call after a failure takes as long as that, and is answered all the same. Ranks that failed stay away.

    :param folder: the transformer in the diffusers layout.
    :param device_type: cpu, cuda or npu. On npu this process needs `devices.environment` before torch is imported.
    :param devices: their numbers, 1, 2, 4 or 8; on a CPU only the count matters.
    :raises InvalidInput: an unknown type of device, or a number of devices that there is no layout for.
    :raises OSError: the checkpoint is not there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device_type: str,
        devices: Sequence[int],
        dtype: torch.dtype,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._folder, self._dtype = folder, dtype
        self._kind, self._devices = kind_of(device_type), tuple(devices)
        self._layout = layout_for(len(self._devices))
        self._config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self._loading = threading.Lock()
        self._model: Any = None
        self._alone = 0  # index of the device that holds, or will hold, the whole model
        self._ranks: Ranks | None = None
        self._reason: str | None = None
        self._failed_at: float | None = None
        self._changed: Callable[[], None] = lambda: None
        if self._layout.size > 1:
            self._start(timeouts or Timeouts())

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The prediction for B rows; thread safe, one call at a time on the ranks.

        :param inputs: as of `predict`.
        :returns: (B, C, H, W) float32.
        :raises InvalidInput: the inputs do not fit together, or not the model.
        :raises torch.OutOfMemoryError: from one device; ranks without memory are given up for one device.
        """
        check_inputs(self._config, inputs)
        if self._ranks is not None and self._reason is None:
            try:
                return self._ranks.call(inputs, inputs["hidden_states"].shape)
            except (RanksFailed, OSError) as error:  # the latter of the memory that leader and ranks share
                self._give_up(str(error))
        return self._predict_alone(inputs)

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, from any thread, when the ranks have failed, also between two calls."""
        self._changed = changed

    def status(self) -> dict[str, Any]:
        """The current placement of the model.

        mode "distributed" or "single"; reason: why not distributed, None where one device was asked for; failed_at:
        since when not, in seconds since the epoch; layout tp and ep; device and dtype; ranks: rank, pid, device,
        parameters, alive, last_beat in seconds ago, also of past ones; healthy: how many ranks work.
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
            "dtype": str(self._dtype).removeprefix("torch."),
            "ranks": ranks,
            "healthy": sum(rank["alive"] for rank in ranks) if distributed else 0,
        }

    def close(self) -> None:
        """End the ranks and let go of the model, after the call at hand. It must not be called again afterwards."""
        if self._ranks is not None:
            self._ranks.close()
        with self._loading:
            self._model = None

    def __enter__(self) -> DistributedTransformer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, timeouts: Timeouts) -> None:
        job = RanksJob(
            program=_PROGRAM,
            arguments={"folder": str(self._folder.resolve()), "dtype": str(self._dtype).removeprefix("torch.")},
            layout=self._layout,
            device_type=self._kind.name,
            devices=self._devices,
            timeouts=timeouts,
        )
        try:
            check_divisible(self._folder, self._layout)
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
        log.warning("the transformer goes on with one device: %s", reason)
        self._changed()

    def _predict_alone(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predict(self._load(), inputs)

    def _load(self) -> Any:
        """The whole model, in this process."""
        with self._loading:
            while self._model is None:
                device = device_of(self._kind, self._devices, self._alone)
                try:
                    self._model = load_transformer(self._folder, device=device, dtype=self._dtype)
                except RuntimeError as error:  # it may be the one that the ranks failed of, or have no room
                    if self._alone + 1 == len(self._devices):
                        raise
                    log.warning("the transformer cannot be loaded to %s, trying the next: %s", device, error)
                    self._alone += 1
            return self._model
