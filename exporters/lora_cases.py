"""Test cases for the second graph of a network, which takes LoRAs: answers of the original with hooks that add one."""

from __future__ import annotations

import numpy as np

from darkroom.serving.lora_layout import DOWN, INDEX, SCALE, UP
from exporters import plan
from exporters.lora import flat_matrices, random_matrices
from exporters.plan import Case, NetworkPlan, Parts


def lora_cases(wanted: NetworkPlan, parts: Parts, half: bool) -> list[Case]:
    """Inputs of a network's second graph, with the original's answers: two rows, of which the first has a LoRA.

    :param half: whether the graph is in fp16.
    """
    import torch

    from exporters.graphs import lora

    if wanted.lora is None:
        return []
    random, rank = np.random.default_rng(2), 3
    network = parts[wanted.lora.component]
    layout = lora.layout_of(network, wanted.lora)
    matrices = random_matrices(layout, rank, random)
    scale = np.array([random.uniform(0.5, 1.5, rank), np.zeros(rank)], np.float32)
    shape = next(shape for shape in wanted.check_shapes if shape.rows == 2)
    given = wanted.inputs(parts, shape, random)
    tensors = {
        name: (torch.from_numpy(down * scale[0][:, None]), torch.from_numpy(up))
        for name, (down, up) in matrices.items()
    }
    ((_, without),) = plan.answered(wanted, parts, [given])
    with lora.applied(network, wanted.lora, tensors):
        ((_, changed),) = plan.answered(wanted, parts, [given])
    down, up = flat_matrices(layout, [matrices], rank)
    kind = np.float16 if half else np.float32
    further = {INDEX: np.array([1, 0]), SCALE: scale, DOWN: down.astype(kind), UP: up.astype(kind)}
    expected = {name: np.concatenate([changed[name][:1], without[name][1:]]) for name in without}
    return [({**given, **further}, expected)]
