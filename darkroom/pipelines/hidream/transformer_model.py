"""The Triton model `hidream_transformer`: rows of one or several requests on one executor."""

from __future__ import annotations

import os

import numpy as np
import torch

from darkroom.networks import Array, Tensors
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.transformer import make_executor
from darkroom.triton_model import NetworkModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HidreamTransformerModel(NetworkModel):
    """Not decoupled, dynamically batched.

    Environment: HIDREAM_DEVICE ("cuda:1", "npu:0", "cpu") instead of the instance's device; HIDREAM_DTYPE ("float32",
    "bfloat16", "float16"), by default float32 on a CPU and bfloat16 elsewhere; HIDREAM_COMPILE=1 for `torch.compile`.
    """

    spec = networks.TRANSFORMER

    def setup(self, kind: str, device: int) -> None:
        place = torch.device(os.environ.get("HIDREAM_DEVICE") or (f"cuda:{device}" if kind == "GPU" else "cpu"))
        usual = torch.float32 if place.type == "cpu" else torch.bfloat16
        name = os.environ.get("HIDREAM_DTYPE")
        if name and name not in _DTYPES:
            raise ValueError(f"HIDREAM_DTYPE must be one of {', '.join(_DTYPES)}; got {name!r}")
        dtype = _DTYPES[name] if name else usual
        compiled = os.environ.get("HIDREAM_COMPILE") == "1"
        self._executor = make_executor(self.folder, device=place, dtype=dtype, compiled=compiled)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        given = {name: torch.from_numpy(np.require(value, requirements="W")) for name, value in inputs.items()}
        given["timesteps"] = given["timesteps"][:, 0]
        return {"noise_pred": self._executor(given).cpu().numpy()}

    def device(self) -> str:
        return f"torch {self._executor.status()['device']}"

    def close(self) -> None:
        self._executor.close()
