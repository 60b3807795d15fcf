"""A network with LoRAs: batches in which a LoRA acts run on a second graph, all others on the plain one.

The second graph is opened for the first such batch, because it takes memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from darkroom.serving.batching import RequestError, Run
from darkroom.serving.lora_cache import LoraCache
from darkroom.serving.lora_layout import GRAPH_NAME, LoraLayout
from darkroom.serving.loras import RowLoras
from darkroom.serving.networks import Array, Tensors
from darkroom.serving.onnx.lora_bank import LoraBank
from darkroom.serving.onnx.session import CUDA, TENSORRT

Open = Callable[[Path], Any]
"""Opens a session over an .onnx file."""


class LoraGraph:
    """The second graph of one network. Not thread safe.

    :param folder: the version folder.
    :param device: the number of the GPU, if the session is on one.
    :param limit: maximum size of the LoRAs in memory, in bytes.
    """

    def __init__(
        self,
        layout: LoraLayout,
        folder: Path,
        cache: LoraCache,
        *,
        limit: float,
        open: Open,
        device: int,
        run_options: ort.RunOptions,
    ) -> None:
        self._path = folder / GRAPH_NAME
        self._open = open
        self._device = device
        self._run_options = run_options
        self._session: Any = None
        self.bank = LoraBank(layout, cache, limit=limit, place=self._placed)

    def run(self, outputs: Sequence[str], inputs: Tensors, loras: RowLoras, plain: Run) -> Sequence[Array]:
        """Run one batch that names LoRAs; on `plain` if they change nothing in this network.

        :raises LoraMissing, InvalidInput: see `LoraBank.inputs`.
        """
        further = self.bank.inputs(loras)
        if further is None:
            return plain(outputs, inputs)
        feed = {name: _value(given) for name, given in {**inputs, **further}.items()}
        values = self._session.run_with_ort_values(list(outputs), feed, self._run_options)
        return [value.numpy() for value in values]

    def _placed(self, matrices: Array) -> Any:
        if self._session is None:
            self._session = self._open(self._path)
        if self._session.get_providers()[0] in (CUDA, TENSORRT):
            return ort.OrtValue.ortvalue_from_numpy(matrices, "cuda", self._device)
        return ort.OrtValue.ortvalue_from_numpy(matrices)


def _value(given: Any) -> Any:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(given)) if isinstance(given, np.ndarray) else given


def with_loras(plain: Run, graph: LoraGraph | None) -> Run:
    """Wrap `plain`, for inputs that may name LoRAs.

    :param graph: None if the network takes no LoRAs; calls that name some are then refused.
    """

    def run(outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        own, loras = RowLoras.taken_from(inputs)
        if loras is None or not loras.act:
            return plain(outputs, own)
        if graph is None:
            raise RequestError("this network takes no LoRAs")
        return graph.run(outputs, own, loras, plain)

    return run
