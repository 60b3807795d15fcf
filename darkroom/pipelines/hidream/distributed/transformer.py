"""`DistributedTransformer`: HiDream's transformer, run on several devices or on one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.parallel.job import Timeouts
from darkroom.parallel.layout import Layout
from darkroom.parallel.network import DividedNetwork
from darkroom.pipelines.hidream.distributed.inputs import check_inputs
from darkroom.pipelines.hidream.distributed.layouts import layout_for
from darkroom.pipelines.hidream.distributed.shard import check_divisible
from darkroom.pipelines.hidream.transformer import load_transformer, predict

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DistributedTransformer(DividedNetwork):
    """`predict` of darkroom/pipelines/hidream/transformer.py, bound to a model that ranks hold together.

    :param folder: the transformer in the diffusers layout.
    :param devices: their numbers, 1, 2, 4 or 8.
    :raises InvalidInput: a number of devices that there is no layout for.
    """

    PROGRAM = "darkroom.pipelines.hidream.distributed.shard:program"
    ANSWER_AS = "hidden_states"

    def __init__(
        self,
        folder: Path,
        *,
        device_type: str,
        devices: Sequence[int],
        dtype: torch.dtype,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        layout = layout_for(len(devices))
        super().__init__(
            folder, device_type=device_type, devices=devices, dtype=dtype, layout=layout, timeouts=timeouts
        )

    def check_divisible(self, layout: Layout) -> None:
        check_divisible(self.folder, layout)

    def check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        check_inputs(self._config, inputs)

    def load(self, device: torch.device) -> Any:
        return load_transformer(self.folder, device=device, dtype=self.dtype)

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        return predict(model, inputs)
