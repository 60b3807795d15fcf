"""What LoRAs cost at the UNet: a batch without any, with one for all rows, and with another one for each row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.context import Context
from benchmarks.lora_network import RANK, call, execute, lora_network
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.caps import unet_inputs
from benchmarks.sd15.loop import text_width
from benchmarks.timing import in_turns, ratio, timed
from darkroom.pipelines.sd15.networks import UNET, VAE_SCALE_FACTOR
from darkroom.serving.batching import NetworkCall
from darkroom.serving.networks import Array

SHAPES: Mapping[tuple[int, int], int] = {(2, 16): 21, (8, 16): 11, (4, 32): 7, (2, 64): 4}
"""Rounds by the rows of a batch and the side of its latents: a request with guidance, and full batches."""
QUICK_SHAPES = {(2, 8): 2, (4, 8): 2}
NONE, ONE, EACH = "no LoRA", "one LoRA", "a LoRA per row"
BOUNDS = {ONE: 1.15, EACH: 1.2}
"""What a batch may take, as a multiple of its time without LoRAs."""


def run(context: Context) -> Section:
    """Ratios by the size of the batch, for LoRAs of rank 16 that change every module that can be changed."""
    shapes = QUICK_SHAPES if context.quick else SHAPES
    width = text_width(context.repository)
    findings: list[Finding] = []
    lines: list[tuple[Cell, ...]] = []
    with lora_network(context.repository, UNET, max(rows for rows, _ in shapes)) as (network, digests):
        for (rows, side), rounds in shapes.items():
            size = f"{side * VAE_SCALE_FACTOR}x{side * VAE_SCALE_FACTOR}, {rows} rows"
            context.stage(f"LoRAs at the UNet, {size}", rounds + 1)
            calls = _calls(rows, unet_inputs(rows, side, width), digests)
            variants = {name: timed(partial(execute, network, one)) for name, one in calls.items()}
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
    return {name: call(UNET, inputs, loras) for name, loras in chosen.items()}
