"""What LoRAs of several requests cost at the base's UNet: a batch with four of them and rows without any."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.context import Context
from benchmarks.lora_network import RANK, call, execute, lora_network
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.timing import in_turns, ratio, timed
from darkroom.pipelines.sdxl.checkpoint import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.pipelines.sdxl.networks import BASE_IDS, UNET
from darkroom.serving.networks import Array
from exporters.tensorrt.graph import read_graph

ROWS, LORAS = 8, 4
SIDES: Mapping[int, int] = {16: 15, 32: 9, 64: 4}
"""Rounds by the side of the latents."""
QUICK_SIDES = {8: 2}
NONE, ONE, MIXED = "no LoRA", "one LoRA", f"{LORAS} LoRAs and none"
BOUNDS = {NONE: 1.2, ONE: 1.15}
"""What a batch with several may take, as a multiple of the other two."""
_TOKENS = 77


def run(context: Context) -> Section:
    """Ratios by the size of the image, for LoRAs that change every module that can be changed."""
    sides = QUICK_SIDES if context.quick else SIDES
    findings: list[Finding] = []
    lines: list[tuple[Cell, ...]] = []
    with lora_network(context.repository, UNET, LORAS) as (network, digests):
        loras: dict[str, list[dict[str, float]]] = {
            NONE: [{}] * ROWS,
            ONE: [{digests[0]: 1.0}] * ROWS,
            MIXED: [{digest: 1.0} for digest in digests] + [{}] * (ROWS - LORAS),
        }
        for side, rounds in sides.items():
            size = f"{side * VAE_SCALE_FACTOR}x{side * VAE_SCALE_FACTOR}, {ROWS} rows"
            context.stage(f"LoRAs at the UNet, {size}", rounds + 1)
            inputs = unet_inputs(context.repository, side)
            calls = {name: call(UNET, inputs, rows) for name, rows in loras.items()}
            variants = {name: timed(partial(execute, network, one)) for name, one in calls.items()}
            seconds = in_turns(variants, rounds=rounds, on_round=context.step)
            for name, bound in BOUNDS.items():
                findings.append(ratio(f"{MIXED} over {name}, {size}", seconds[MIXED], seconds[name], target=bound))
            lines += [(size, name, statistics.median(values) * 1000) for name, values in seconds.items()]
    table = Table(
        title=f"Base UNet with LoRAs of rank {RANK}, all cores",
        columns=("batch", "LoRAs", "ms"),
        rows=tuple(lines),
        note="Medians. Batches without LoRAs run on the plain graph.",
    )
    title = "LoRAs of several requests at the base's UNet"
    return Section(name="sdxl_loras", title=title, findings=tuple(findings), tables=(table,))


def unet_inputs(repository: Path, side: int) -> dict[str, Array]:
    """Random inputs of the UNet: latents `side` x `side`, and embeddings as wide as the checkpoint's."""
    random = np.random.default_rng(0)
    widths = read_graph(repository / UNET.name / "1" / "model.onnx").inputs
    prompt, pooled = widths["prompt_embeds"][-1] or 1, widths["text_embeds"][-1] or 1
    return {
        "latents": random.standard_normal((ROWS, LATENT_CHANNELS, side, side), np.float32),
        "timestep": np.full((ROWS, 1), 500, np.float32),
        "prompt_embeds": random.standard_normal((ROWS, _TOKENS, prompt), np.float32),
        "text_embeds": random.standard_normal((ROWS, pooled), np.float32),
        "time_ids": np.tile(np.array([[1024, 1024, 0, 0, 1024, 1024]], np.float32), (ROWS, 1))[:, :BASE_IDS],
    }
