"""The model `qwen_edit_transformer`: rows of one or several requests in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from darkroom.diffusion.attention import Attention
from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.attention import RowAttention
from darkroom.pipelines.qwen_edit.placement import placed
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.transformer import load_with_controlnet, predict
from darkroom.serving.host import Gauge
from darkroom.serving.torch_network import TorchNetworkModel


class QwenEditTransformerModel(TorchNetworkModel):
    """Not decoupled, dynamically batched."""

    spec = networks.TRANSFORMER
    output = "noise_pred"

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        settings = Settings()
        self._device, dtype = placed(kind, device, settings)
        int8 = settings.weights == "int8"
        self._whole = load_with_controlnet(folder, device=self._device, dtype=dtype, int8=int8)
        head = self._whole[0].config.attention_head_dim
        self._attention = Attention.probed(settings.attention, device=self._device, dtype=dtype, head=head)
        for model in filter(None, self._whole):
            model.set_attn_processor(RowAttention(self._attention))

    def compute(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predict(self._whole[0], inputs, self._whole[1])

    def device(self) -> str:
        return f"torch {self._device}"

    def gauges(self) -> Sequence[Gauge]:
        return [self._attention.gauge()]

    def close(self) -> None:
        del self._whole
