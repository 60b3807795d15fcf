"""The model `qwen_edit_transformer`: rows of one or several requests in one forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.placement import placed
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.transformer import load_transformer, predict
from darkroom.serving.host import NetworkModel
from darkroom.serving.networks import Array, Tensors


class QwenEditTransformerModel(NetworkModel):
    """Not decoupled, dynamically batched."""

    spec = networks.TRANSFORMER

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        self._device, dtype = placed(kind, device, Settings())
        self._model = load_transformer(folder, device=self._device, dtype=dtype)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        given = {name: torch.from_numpy(np.require(value, requirements="W")) for name, value in inputs.items()}
        return {"noise_pred": predict(self._model, given).cpu().numpy()}

    def device(self) -> str:
        return f"torch {self._device}"

    def close(self) -> None:
        del self._model
