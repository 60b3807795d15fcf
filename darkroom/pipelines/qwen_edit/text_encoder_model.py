"""The model `qwen_edit_text_encoder`: prompts with their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.placement import placed
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.text_encoder import encode, load_text_encoder
from darkroom.serving.host import NetworkModel
from darkroom.serving.networks import Array, Tensors


class QwenEditTextEncoderModel(NetworkModel):
    """Not decoupled, dynamically batched."""

    spec = networks.TEXT_ENCODER

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        self._device, dtype = placed(kind, device, Settings())
        self._model = load_text_encoder(folder, device=self._device, dtype=dtype)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        given = {name: torch.from_numpy(np.require(value, requirements="W")) for name, value in inputs.items()}
        return {"prompt_embeds": encode(self._model, given).cpu().numpy()}

    def device(self) -> str:
        return f"torch {self._device}"

    def close(self) -> None:
        del self._model
