"""The safetensors of a transformer folder, read piece by piece."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open

from darkroom.parallel.layout import Layout, Place, divide
from darkroom.pipelines.hidream.distributed.layouts import TP, experts_of
from darkroom.pipelines.hidream.distributed.plan import cut_of

_WEIGHTS = "*.safetensors"


class ShardedCheckpoint:
    """The parameters of a folder in the diffusers layout: config.json and one or several safetensors, not read yet.

    :raises OSError: config.json or the weights are not there.
    """

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        files = sorted(folder.glob(_WEIGHTS))
        if not files:
            raise FileNotFoundError(f"no weights ({_WEIGHTS}) beside config.json")
        self._stack = contextlib.ExitStack()
        self._where: dict[str, Any] = {}
        for file in files:
            handle = self._stack.enter_context(safe_open(file, framework="pt"))
            self._where.update(dict.fromkeys(handle.keys(), handle))

    def __enter__(self) -> ShardedCheckpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def names(self) -> list[str]:
        """The names of all parameters."""
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter, read from the file's header."""
        return tuple(self._slice(name).get_shape())

    def read(self, name: str, place: Place, *, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """A copy of the rank's part of a parameter; nothing but that part is copied.

        :raises KeyError: the checkpoint lacks it.
        :raises InvalidInput: it cannot be divided evenly.
        """
        cut, source = cut_of(name), self._slice(name)
        if cut is None:
            part: torch.Tensor = source[:]
        else:
            start, stop = cut.bounds(name, self.shape(name), place)
            part = source[start:stop] if cut.dim == 0 else source[:, start:stop]
        # `part` is a view of the mapped file, and would keep the file mapped and the whole tensor in the page cache.
        return torch.empty(part.shape, device=device, dtype=dtype).copy_(part)

    def _slice(self, name: str) -> Any:
        if name not in self._where:
            raise KeyError(f"the checkpoint has no parameter {name}")
        return self._where[name].get_slice(name)


def check_divisible(folder: Path, layout: Layout) -> None:
    """Whether the model can be divided so; reads headers only.

    :raises InvalidInput: heads, experts or a width leave a remainder; the message has the numbers.
    """
    with ShardedCheckpoint(folder) as checkpoint:
        local_heads(checkpoint.config, layout)
        place = Place(layout=layout, rank=0)
        experts_of(place, checkpoint.config["num_routed_experts"])
        for name in checkpoint.names():
            if cut := cut_of(name):
                cut.bounds(name, checkpoint.shape(name), place)


def local_heads(config: dict[str, Any], layout: Layout) -> int:
    """Attention heads of one rank. :raises InvalidInput: they cannot be divided evenly."""
    return divide(config["num_attention_heads"], layout.axes[TP], "attention heads", "tensor parallel ranks")
