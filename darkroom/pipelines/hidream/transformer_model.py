"""The Triton model `hidream_transformer`: rows of one or several requests on one executor."""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import torch

from darkroom.parallel.devices import kind_of
from darkroom.parallel.ranks import for_clients
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.distributed.layouts import parse_devices
from darkroom.pipelines.hidream.executor import make_executor
from darkroom.serving.networks import Array, RowSize, Tensors
from darkroom.serving.triton_metrics import Gauges
from darkroom.serving.triton_model import NetworkModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HidreamTransformerModel(NetworkModel):
    """Not decoupled, dynamically batched; over several devices it is one instance (decision 12).

    Environment: HIDREAM_DEVICE_TYPE ("cpu", "cuda", "npu") and HIDREAM_DEVICES ("0,1,2,3") instead of the instance's
    device; HIDREAM_DTYPE ("float32", "bfloat16", "float16"), by default float32 on a CPU and bfloat16 elsewhere;
    HIDREAM_COMPILE=1 for `torch.compile`, on one device only; CANARY_TIMEOUT, of which ranks have three quarters for a
    prediction.
    """

    spec = networks.TRANSFORMER

    def setup(self, kind: str, device: int) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")  # into the server's log
        device_type = kind_of(os.environ.get("HIDREAM_DEVICE_TYPE") or ("cuda" if kind == "GPU" else "cpu")).name
        devices = parse_devices(os.environ.get("HIDREAM_DEVICES") or str(max(device, 0)))
        if len(devices) > 1 and self.instances > 1:
            raise ValueError(
                f"{self.instances} instances would each take the {len(devices)} devices of HIDREAM_DEVICES; its config "
                "has to ask for one: python -m exporters prepare"
            )
        name = os.environ.get("HIDREAM_DTYPE") or ("float32" if device_type == "cpu" else "bfloat16")
        if name not in _DTYPES:
            raise ValueError(f"HIDREAM_DTYPE must be one of {', '.join(_DTYPES)}; got {name!r}")
        compiled = os.environ.get("HIDREAM_COMPILE") == "1"
        self._executor = make_executor(
            self.folder,
            device_type=device_type,
            devices=devices,
            dtype=_DTYPES[name],
            compiled=compiled,
            canary_timeout=float(os.environ.get("CANARY_TIMEOUT") or 120),
        )
        self._executor.watch(self.publish)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        given = {name: torch.from_numpy(np.require(value, requirements="W")) for name, value in inputs.items()}
        given["timesteps"] = given["timesteps"][:, 0]
        return {"noise_pred": self._executor(given).cpu().numpy()}

    def row_size(self) -> RowSize:
        height, width = json.loads((self.folder / "config.json").read_text())["max_resolution"]
        return networks.padded_area(int(height) * int(width))

    def device(self) -> str:
        return f"torch {self._executor.status()['device']}"

    def show(self, gauges: Gauges) -> None:
        super().show(gauges)
        status = self._executor.status()
        if "layout" not in status:  # one device was asked for
            return
        layout = {name: str(size) for name, size in status["layout"].items()}
        gauges.show("darkroom_network_ranks", "ranks of a network that work", status["healthy"], **layout)
        if status["reason"]:
            text = "when the ranks of a network failed, in seconds since the epoch"
            gauges.show(
                "darkroom_network_ranks_failed", text, status["failed_at"], reason=for_clients(status["reason"])
            )

    def close(self) -> None:
        self._executor.close()
