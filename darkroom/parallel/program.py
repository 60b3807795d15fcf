"""The interface of a program: a function that loads a rank's part of a model, named "module:function" in the job."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from darkroom.parallel.layout import ALL, Place

Group = dist.ProcessGroup | None
"""Ranks that communicate with each other; None for all of them."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Describes to a program the rank that it runs in. When it is called, all ranks are connected."""

    place: Place
    device: torch.device
    mesh: DeviceMesh

    def group(self, axis: str) -> Group:
        """Return the ranks along an axis of the layout, or all with ALL. All ranks have to call this for the same
        groups in the same order, because it checks a sum over the group.

        :raises RuntimeError: the sum was wrong.
        """
        group = dist.group.WORLD if axis == ALL else self.mesh.get_group(axis)
        check_sum(self.device, group, self.place.part(axis)[1])
        return group


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A rank's part of a model.

    :param run: computes the answer to named inputs. It is called on all ranks at the same time with the same inputs,
        and returns the whole answer on each.
    :param parameters: number of parameters of this rank's part, for the status.
    """

    run: Callable[[Mapping[str, Tensor]], Tensor]
    parameters: int


Program = Callable[[Context, Mapping[str, Any]], Loaded]
"""The type of a program. It is called with the job's `arguments`."""


def find_program(name: str) -> Program:
    """Import a program. :param name: "module:function". :raises ImportError, AttributeError: it does not exist."""
    module, _, function = name.partition(":")
    program: Program = getattr(importlib.import_module(module), function)
    return program


def check_sum(device: torch.device, group: Group, size: int) -> None:
    """Check a sum over the `size` ranks of a group. :raises RuntimeError: it is wrong."""
    one = torch.ones(1, device=device)
    dist.all_reduce(one, group=group)
    if one.item() != size:
        raise RuntimeError(f"a sum over {size} ranks gave {one.item()}")
