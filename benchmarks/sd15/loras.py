"""What LoRAs cost at the UNet: a batch without any, with one for all rows, and with another one for each row."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.caps import unet_inputs
from benchmarks.sd15.loop import exported, text_width
from benchmarks.timing import in_turns, ratio, timed
from darkroom.pipelines.sd15.networks import UNET, VAE_SCALE_FACTOR
from darkroom.serving.batching import NetworkCall
from darkroom.serving.lora_cache import LoraCache
from darkroom.serving.lora_layout import FILE_NAME, LoraLayout
from darkroom.serving.loras import RowLoras
from darkroom.serving.model_config import as_dict, read_config
from darkroom.serving.networks import Array
from darkroom.serving.onnx.network import OnnxNetwork
from exporters.lora import random_matrices

RANK = 16
SHAPES: Mapping[tuple[int, int], int] = {(2, 16): 21, (8, 16): 11, (4, 32): 7, (2, 64): 4}
"""Rounds by the rows of a batch and the side of its latents: a request with guidance, and full batches."""
QUICK_SHAPES = {(2, 8): 2, (4, 8): 2}
NONE, ONE, EACH = "no LoRA", "one LoRA", "a LoRA per row"
BOUNDS = {ONE: 1.15, EACH: 1.2}
"""What a batch may take, as a multiple of its time without LoRAs."""


@dataclass(frozen=True)
class _Matrices:
    down: Array
    up: Array


def run(context: Context) -> Section:
    """Ratios by the size of the batch, for LoRAs of rank 16 that change every module that can be changed."""
    shapes = QUICK_SHAPES if context.quick else SHAPES
    width = text_width(context.repository)
    findings: list[Finding] = []
    lines: list[tuple[Cell, ...]] = []
    with _network(context.repository, max(rows for rows, _ in shapes)) as (network, digests):
        for (rows, side), rounds in shapes.items():
            size = f"{side * VAE_SCALE_FACTOR}x{side * VAE_SCALE_FACTOR}, {rows} rows"
            context.stage(f"LoRAs at the UNet, {size}", rounds + 1)
            calls = _calls(rows, unet_inputs(rows, side, width), digests)
            variants = {name: timed(partial(_execute, network, call)) for name, call in calls.items()}
            seconds = in_turns(variants, rounds=rounds, on_round=context.step)
            for name, bound in BOUNDS.items():
                findings.append(ratio(f"{name}, {size}", seconds[name], seconds[NONE], target=bound))
            lines += [(size, name, statistics.median(values) * 1000) for name, values in seconds.items()]
    table = Table(
        title=f"UNet with LoRAs of rank {RANK}, all cores",
        columns=("batch", "LoRAs", "ms"),
        rows=tuple(lines),
        note="Medians. Batches without LoRAs run on the plain graph.",
    )
    return Section(name="sd15_loras", title="LoRAs at the UNet", findings=tuple(findings), tables=(table,))


def _calls(rows: int, inputs: Mapping[str, Array], digests: Sequence[str]) -> dict[str, NetworkCall]:
    chosen: dict[str, list[dict[str, float]]] = {
        NONE: [{}] * rows,
        ONE: [{digests[0]: 1.0}] * rows,
        EACH: [{digest: 1.0} for digest in digests[:rows]],
    }
    outputs = [tensor.name for tensor in UNET.outputs]
    return {name: NetworkCall(inputs, outputs, RowLoras.of_rows(loras).to_text()) for name, loras in chosen.items()}


def _execute(network: OnnxNetwork, call: NetworkCall) -> None:
    answer = network.execute([call])[0]
    if isinstance(answer, Exception):
        raise answer


@contextmanager
def _network(repository: Path, count: int) -> Iterator[tuple[OnnxNetwork, list[str]]]:
    """The UNet as it is served, and the digests of random LoRAs that it can use.

    :raises BenchmarkError: it is not exported.
    """
    folder = exported(repository, UNET, FILE_NAME).parent
    layout = LoraLayout.read(folder)
    config: Any = read_config(folder.parent)
    if layout is None or config is None:
        raise BenchmarkError(f"{UNET.name} takes no LoRAs; run: python -m exporters prepare")
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
