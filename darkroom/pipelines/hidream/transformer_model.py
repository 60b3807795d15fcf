"""The model `hidream_transformer`: rows of one or several requests on one executor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from darkroom.parallel.network import rank_gauges
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.executor import make_executor
from darkroom.pipelines.hidream.settings import Settings
from darkroom.serving.accelerators import MPS
from darkroom.serving.host import Gauge
from darkroom.serving.networks import RowSize
from darkroom.serving.torch_network import TorchNetworkModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HidreamTransformerModel(TorchNetworkModel):
    """Not decoupled, dynamically batched; over several devices it is one instance (decision 12).

    The settings of the family say what it runs on instead of the instance's device, and what it computes in. Of
    CANARY_TIMEOUT in the environment ranks have three quarters for a prediction.
    """

    spec = networks.TRANSFORMER
    output = "noise_pred"

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        if kind == MPS:
            raise ValueError("this network was never run there")  # the local engine takes the CPU
        self._folder, settings = folder, Settings()
        device_type = settings.device_type or ("cuda" if kind == "GPU" else "cpu")
        devices = settings.devices or (max(device, 0),)
        if len(devices) > 1 and instances > 1:
            raise ValueError(
                f"{instances} instances would each take the {len(devices)} devices of HIDREAM_DEVICES; its config "
                "has to ask for one: python -m exporters prepare"
            )
        self._executor = make_executor(
            folder,
            device_type=device_type,
            devices=devices,
            dtype=_DTYPES[settings.dtype or ("float32" if device_type == "cpu" else "bfloat16")],
            compiled=settings.compile,
            canary_timeout=float(os.environ.get("CANARY_TIMEOUT") or 120),
        )

    def compute(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._executor({**inputs, "timesteps": inputs["timesteps"][:, 0]})

    def row_size(self) -> RowSize:
        height, width = json.loads((self._folder / "config.json").read_text())["max_resolution"]
        return networks.padded_area(int(height) * int(width))

    def device(self) -> str:
        return f"torch {self._executor.status()['device']}"

    def gauges(self) -> Sequence[Gauge]:
        return rank_gauges(self._executor.status())

    def watch(self, changed: Callable[[], None]) -> None:
        self._executor.watch(changed)

    def close(self) -> None:
        self._executor.close()
