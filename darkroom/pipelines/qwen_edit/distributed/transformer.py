"""`DividedTransformer`: the transformer with its ControlNet, run on several devices or on one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.parallel.job import Timeouts
from darkroom.parallel.layout import Layout
from darkroom.parallel.network import DividedNetwork
from darkroom.pipelines.qwen_edit.distributed.inputs import check_inputs
from darkroom.pipelines.qwen_edit.distributed.layouts import layout_for
from darkroom.pipelines.qwen_edit.distributed.shard import check_divisible
from darkroom.pipelines.qwen_edit.networks import CONTROLNET_FOLDER
from darkroom.pipelines.qwen_edit.transformer import load_with_controlnet, predict

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DividedTransformer(DividedNetwork):
    """`predict` of darkroom/pipelines/qwen_edit/transformer.py, bound to models that ranks hold together.

    :param folder: the transformer in the diffusers layout, perhaps with a ControlNet beside it.
    :param devices: their numbers, 1, 2, 4 or 8.
    :param attention: names of kernels for attention, in the order in which they are tried.
    :raises InvalidInput: a number of devices that there is no layout for.
    """

    PROGRAM = "darkroom.pipelines.qwen_edit.distributed.shard:program"
    ANSWER_AS = "hidden_states"

    def __init__(
        self,
        folder: Path,
        *,
        device_type: str,
        devices: Sequence[int],
        dtype: torch.dtype,
        attention: Sequence[str] = (),
        timeouts: Timeouts | None = None,
    ) -> None:
        self._width = int(json.loads((folder / "config.json").read_text()).get("joint_attention_dim", 3584))
        self._attention = list(attention)
        layout = layout_for(len(devices))
        super().__init__(
            folder, device_type=device_type, devices=devices, dtype=dtype, layout=layout, timeouts=timeouts
        )

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "attention": self._attention}

    def check_divisible(self, layout: Layout) -> None:
        check_divisible(self.folder, layout)

    def check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        check_inputs(self._width, (self.folder / CONTROLNET_FOLDER).is_dir(), inputs)

    def load(self, device: torch.device) -> Any:
        return load_with_controlnet(self.folder, device=device, dtype=self.dtype)

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        transformer, controlnet = model
        return predict(transformer, inputs, controlnet)
