"""A LoRA that is part of a torch network: its matrices lie beside the weights, and are added as those are read.

The exporter writes the file (`exporters.merged_lora`) with two tensors for each module that the LoRA changes,
MODULE.down (rank, in) and MODULE.up (out, rank), float32, with alpha / rank multiplied into `up`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from typing_extensions import Self

LORA_NAME = "lora.safetensors"
"""The file's name in the folder of the weights, which is none of them."""
DOWN, UP = ".down", ".up"
_WEIGHT = ".weight"


class MergedLora:
    """Adds a LoRA to weights, one module after the other; use it as a context.

    In memory are the matrices of one module, and that module's weight in float32.

    :param folder: of the weights. Without a LORA_NAME in it weights stay as they are.
    :param device: where the weights are.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._path, self._device = folder / LORA_NAME, device
        self._stack = ExitStack()
        self._file: Any = None
        self._left: set[str] = set()

    def __enter__(self) -> Self:
        if self._path.is_file():
            self._file = self._stack.enter_context(safe_open(self._path, "pt", device=str(self._device)))
            self._left = {name.removesuffix(UP) for name in self._file.keys() if name.endswith(UP)}  # noqa: SIM118
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the network with the LoRA's change of it, which is float32; others as they are.

        :param name: in the network, as "blocks.0.to_q.weight".
        """
        module = name.removesuffix(_WEIGHT)
        if module == name or module not in self._left:
            return weight
        self._left.remove(module)
        down, up = self._file.get_tensor(module + DOWN), self._file.get_tensor(module + UP)
        return weight.float().addmm(up, down)

    def check(self) -> None:
        """:raises RuntimeError: the LoRA changes modules that the network does not have."""
        if self._left:
            raise RuntimeError(f"{LORA_NAME} is for another network: it changes {min(self._left)}")
