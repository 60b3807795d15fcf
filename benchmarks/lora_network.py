"""A UNet as it is served, with random LoRAs: what the benchmarks of LoRAs run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from darkroom.serving.batching import NetworkCall
from darkroom.serving.lora_cache import LoraCache
from darkroom.serving.lora_layout import FILE_NAME, LoraLayout
from darkroom.serving.loras import RowLoras
from darkroom.serving.model_config import as_dict, read_config
from darkroom.serving.networks import Array, ModelSpec
from darkroom.serving.onnx.network import OnnxNetwork
from exporters.lora import random_matrices

RANK = 16


@dataclass(frozen=True)
class _Matrices:
    down: Array
    up: Array


def call(spec: ModelSpec, inputs: Mapping[str, Array], loras: Sequence[Mapping[str, float]]) -> NetworkCall:
    """A call of a network.

    :param loras: of each row, with their weights.
    """
    outputs = [tensor.name for tensor in spec.outputs]
    return NetworkCall(inputs, outputs, RowLoras.of_rows([dict(row) for row in loras]).to_text())


def execute(network: OnnxNetwork, call: NetworkCall) -> None:
    """Run a call.

    :raises Exception: that of the network.
    """
    answer = network.execute([call])[0]
    if isinstance(answer, Exception):
        raise answer


@contextmanager
def lora_network(repository: Path, spec: ModelSpec, count: int) -> Iterator[tuple[OnnxNetwork, list[str]]]:
    """The network as it is served on a CPU, and the digests of `count` random LoRAs of rank RANK that it can use.

    :raises BenchmarkError: it is not exported.
    """
    folder = repository / spec.name / "1"
    if not (folder / FILE_NAME).exists():
        raise BenchmarkError(f"{spec.name} takes no LoRAs; run: python -m exporters prepare")
    layout = LoraLayout.read(folder)
    config: Any = read_config(folder.parent)
    if layout is None or config is None:
        raise BenchmarkError(f"{spec.name} takes no LoRAs; run: python -m exporters prepare")
    digests = [f"{number:064x}" for number in range(count)]
    before = os.environ.get("LORA_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="loras-") as name:
        cache, random = LoraCache(Path(name), limit=np.inf), np.random.default_rng(0)
        for digest in digests:
            matrices = random_matrices(layout, RANK, random)
            cache.write(digest, layout, {name: _Matrices(*pair) for name, pair in matrices.items()})
        os.environ["LORA_CACHE_DIR"] = name
        try:
            yield OnnxNetwork(as_dict(config), folder.parent, "1", kind="CPU", device=0, warn=print), digests
        finally:
            os.environ.pop("LORA_CACHE_DIR")
            if before is not None:
                os.environ["LORA_CACHE_DIR"] = before
