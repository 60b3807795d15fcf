"""Programs for ranks that are no model: arithmetic over the processes of torch.distributed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from darkroom.parallel.layout import ALL
from darkroom.parallel.program import Context, Loaded


def weighted_sum(context: Context, arguments: Mapping[str, Any]) -> Loaded:
    """Rank k holds `weights[k]`; the answer is the sum of x times each rank's weight, by way of `arguments["axis"]`."""
    weight = float(arguments["weights"][context.place.rank])
    group = context.group(arguments.get("axis", ALL))

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        part = inputs["x"].float() * weight
        dist.all_reduce(part, group=group)
        return part

    return Loaded(run=run, parameters=1)


def refuses(context: Context, arguments: Mapping[str, Any]) -> Loaded:
    """Fails on rank 1, when it is called."""

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        if context.place.rank == 1:
            raise ValueError(f"cannot take {arguments['what']}")
        return torch.zeros(1)

    return Loaded(run=run, parameters=0)
