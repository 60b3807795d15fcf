"""The safetensors of a transformer folder, read piece by piece."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from darkroom.parallel.cuts import Cut, cut_of
from darkroom.parallel.layout import Layout, Place

_WEIGHTS = "*.safetensors"


class ShardedCheckpoint:
    """The parameters of a folder in the diffusers layout: config.json and one or several safetensors, not read yet.

    :param cuts: how the model is divided.
    :raises OSError: config.json or the weights are not there.
    """

    def __init__(self, folder: Path, cuts: Sequence[Cut]) -> None:
        self._cuts = cuts
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
        cut, source = cut_of(self._cuts, name), self._slice(name)
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


def check_cuts(checkpoint: ShardedCheckpoint, cuts: Sequence[Cut], layout: Layout) -> None:
    """Whether all parameters can be divided so; reads headers only.

    :raises InvalidInput: a width leaves a remainder; the message has the numbers.
    """
    place = Place(layout=layout, rank=0)
    for name in checkpoint.names():
        if cut := cut_of(cuts, name):
            cut.bounds(name, checkpoint.shape(name), place)


def load_part(
    model: nn.Module, checkpoint: ShardedCheckpoint, place: Place, *, device: torch.device, dtype: torch.dtype
) -> None:
    """Give a model on torch's meta device this rank's part of its parameters.

    :raises InvalidInput: a width cannot be divided so.
    :raises KeyError: the checkpoint lacks a parameter.
    """
    for name, _ in list(model.named_parameters()):
        part = checkpoint.read(name, place, device=device, dtype=dtype)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(part, requires_grad=False))
    model.eval()


def count_parameters(model: nn.Module) -> int:
    """Values of all parameters that this process holds."""
    return sum(parameter.numel() for parameter in model.parameters())
