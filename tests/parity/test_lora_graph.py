"""The second graph of a network, which takes LoRAs, on a small one: the same trace, other arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from darkroom.serving.lora_layout import DOWN, INDEX, SCALE, UP, LoraLayout
from darkroom.serving.networks import Array, OrtNetwork
from exporters import lora as lora_graph
from exporters import onnx_export
from exporters.graphs import lora
from exporters.lora import LoraPart, LoraPoints, flat_matrices, random_matrices, take_marks

PART = LoraPart(component="net", attribute="net", within=r"blocks\..*", prefix="model.")
RANK = 3


class Net(nn.Module):
    """(rows, 4, h, w) -> (rows, 6, h, w): a convolution to each pixel's own, linear layers over pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {
                "into": nn.Conv2d(4, 8, 1),
                "first": nn.Linear(8, 16),
                "second": nn.Linear(16, 6, bias=False),
                "wide": nn.Conv2d(6, 6, 3, padding=1),
            }
        )
        self.outside = nn.Linear(6, 6)

    def forward(self, image: Tensor) -> Tensor:
        pixels = self.blocks["into"](image)
        tokens = pixels.flatten(2).transpose(1, 2)
        changed = self.outside(self.blocks["second"](torch.nn.functional.gelu(self.blocks["first"](tokens))))
        result: Tensor = self.blocks["wide"](changed.transpose(1, 2).unflatten(2, image.shape[2:]))
        return result


def exported(net: Net, folder: Path) -> tuple[LoraLayout, LoraPoints, list[Path]]:
    """Both graphs, in a folder."""
    height, width = (onnx_export.dimension(name, minimum=2) for name in ("height", "width"))
    with lora.marked(net, PART):
        model = onnx_export.export_onnx(
            net,
            {"image": torch.zeros(2, 4, 5, 7)},
            dynamic={"image": {0: onnx_export.dimension("rows"), 2: height, 3: width}},
            outputs=["result"],
            translations=lora.translations(),
        )
    with pytest.raises(ValueError, match="2 calls of 1 of the 1 modules"):
        take_marks(model, lora.layout_of(net, PART))
