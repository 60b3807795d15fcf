"""The model `qwen_edit_transformer`: rows of one or several requests in one forward pass, with a ControlNet if there is
one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from darkroom.diffusion.attention import Attention
from darkroom.parallel.job import Timeouts
from darkroom.parallel.network import rank_gauges
from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.attention import RowAttention
from darkroom.pipelines.qwen_edit.placement import device_type_of, dtype_on, transformer_placed
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.transformer import load_with_controlnet, predict
from darkroom.serving.accelerators import MPS
from darkroom.serving.host import Gauge
from darkroom.serving.torch_network import TorchNetworkModel

if TYPE_CHECKING:
    from darkroom.pipelines.qwen_edit.distributed.transformer import DividedTransformer


class QwenEditTransformerModel(TorchNetworkModel):
    """Not decoupled, dynamically batched; over several devices it is one instance (decisions 12 and 48).

    Of CANARY_TIMEOUT in the environment ranks have three quarters for a prediction.
    """

    spec = networks.TRANSFORMER
    output = "noise_pred"

    def setup(self, folder: Path, kind: str, device: int, instances: int) -> None:
        settings = Settings()
        self._divided: DividedTransformer | None = None
        self._whole: Any = None
        if settings.divided:
            self._divide(folder, kind, instances, settings)
            return
        self._device, dtype = transformer_placed(kind, device, settings)
        int8 = settings.weights == "int8"
        self._whole = load_with_controlnet(folder, device=self._device, dtype=dtype, int8=int8)
        head = self._whole[0].config.attention_head_dim
        self._attention = Attention.probed(settings.attention, device=self._device, dtype=dtype, head=head)
        for model in filter(None, self._whole):
            model.set_attn_processor(RowAttention(self._attention))

    def _divide(self, folder: Path, kind: str, instances: int, settings: Settings) -> None:
        # Here, as it imports diffusers.
        from darkroom.pipelines.qwen_edit.distributed.transformer import DividedTransformer

        if kind == MPS or settings.weights == "int8":
            what = "int8" if settings.weights == "int8" else "this device"
            raise ValueError(f"{what} does not work with a transformer that is divided; QWEN_EDIT_DEVICES divides it")
        if instances > 1:
            raise ValueError(
                f"{instances} instances would each take the {len(settings.devices)} devices of QWEN_EDIT_DEVICES; its "
                "config has to ask for one: python -m exporters prepare"
            )
        device_type = device_type_of(kind, settings)
        self._divided = DividedTransformer(
            folder,
            device_type=device_type,
            devices=settings.devices,
            dtype=dtype_on(device_type, settings),
            attention=settings.attention,
            timeouts=Timeouts.within(float(os.environ.get("CANARY_TIMEOUT") or 120)),
        )

    def compute(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._divided is not None:
            return self._divided(inputs)
        return predict(self._whole[0], inputs, self._whole[1])

    def device(self) -> str:
        return f"torch {self._divided.status()['device'] if self._divided else self._device}"

    def gauges(self) -> Sequence[Gauge]:
        return rank_gauges(self._divided.status()) if self._divided else [self._attention.gauge()]

    def watch(self, changed: Callable[[], None]) -> None:
        if self._divided is not None:
            self._divided.watch(changed)

    def close(self) -> None:
        if self._divided is not None:
            self._divided.close()
        self._whole = None
