"""The model `qwen_edit_text_encoder`: prompts with their images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.placement import placed
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.text_encoder import encode, load_text_encoder
from darkroom.serving.torch_network import TorchNetworkModel


class QwenEditTextEncoderModel(TorchNetworkModel):
    """Not decoupled, dynamically batched."""

    spec = networks.TEXT_ENCODER
    output = "prompt_embeds"

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        settings = Settings()
        self._place = placed("CPU" if settings.text_encoder_device == "cpu" else kind, device, settings)
        int8 = (settings.text_encoder_weights or settings.weights) == "int8"
        self._model = load_text_encoder(folder, device=self._place[0], dtype=self._place[1], int8=int8)

    def compute(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return encode(self._model, inputs)

    def device(self) -> str:
        return f"torch {self._place[0]}"

    def close(self) -> None:
        del self._model
