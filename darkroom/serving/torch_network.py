"""What networks in torch have in common: arrays in, a tensor from any device out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from darkroom.serving.host import NetworkModel
from darkroom.serving.networks import Array, Tensors

if TYPE_CHECKING:
    from torch import Tensor


class TorchNetworkModel(NetworkModel):
    """A network with one output: subclasses set `output`, and implement `compute` in place of `run`."""

    output: ClassVar[str]

    @abstractmethod
    def compute(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run one batch; the inputs are on the CPU, and the output is on any device."""

    def run(self, inputs: Tensors) -> dict[str, Array]:
        import torch

        given = {name: torch.from_numpy(np.require(value, requirements="W")) for name, value in inputs.items()}
        return {self.output: self.compute(given).cpu().numpy()}
