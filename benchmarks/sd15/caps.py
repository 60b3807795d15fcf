"""How many rows of each resolution the UNet should take at once: milliseconds per row, measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import machine
from benchmarks.context import REPOSITORY, Context
from benchmarks.errors import BenchmarkError
from benchmarks.results import Cell, Section, Table
from benchmarks.sd15.loop import exported, text_width
from benchmarks.timing import Timed, in_turns, timed
from darkroom.devices import gpu_names
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, UNET
from darkroom.serving.networks import OrtNetwork, RowCaps, Tensors

ROWS = (1, 2, 4, 8, 16)
# Rounds by the side of the latents: the small ones are noisier, and cost little.
ROUNDS: Mapping[int, int] = {16: 11, 32: 5, 64: 2}
GPU_ROWS = (*ROWS, 32)
GPU_ROUNDS: Mapping[int, int] = {32: 5, 64: 5, 96: 5, 128: 3}
QUICK_ROUNDS: Mapping[int, int] = {8: 2, 16: 1}
GAIN = 0.05
"""How much time per row a larger batch has to save to be worth it: each of its rows waits for all of them."""
_TOKENS = 77

Seconds = dict[int, dict[int, list[float]]]
"""By side of the latents and by rows, what every round took."""
Stage = Callable[[int], Callable[[int], None]]
"""Told each side as it begins; what it returns is told the rounds done."""


def run(context: Context) -> Section:
    """The table for the UNet of the repository, and which batch suits each resolution."""
    rounds = QUICK_ROUNDS if context.quick else ROUNDS

    def stage(side: int) -> Callable[[int], None]:
        context.stage(f"UNet, latents {side}x{side}", rounds[side] + 1)
        return context.step

    seconds = measure(context.repository, rounds, stage)
    rows: list[tuple[Cell, ...]] = []
    for entry in as_rows(seconds):
        advised = entry["rows"] == best_rows(per_row(seconds[entry["side"]]))
        size = f"{entry['side']}x{entry['side']}"
        rows.append((size, entry["rows"], entry["ms"], entry["ms_per_row"], entry["speedup"], "yes" if advised else ""))
    table = Table(
        title="UNet by ONNX Runtime in one process, all cores",
        columns=("latents", "rows", "ms", "ms per row", "times as fast as 1 row", "best"),
        rows=tuple(rows),
        note=f"Medians. Best is the smallest batch of which no larger one saves {GAIN:.0%} of the time per row. "
        f"What the CPU's config allows: {_present(seconds)}.",
    )
    return Section(name="sd15_batch_caps", title="Rows per execution of the UNet", tables=(table,))


def measure(
    repository: Path,
    rounds: Mapping[int, int],
    stage: Stage = lambda side: lambda done: None,
    device: str = "cpu",
) -> Seconds:
    """Every number of rows at every side of `rounds`, in turns.

    :param repository: with the exported UNet and text encoder.
    :param rounds: how many rounds count, by the side of the latents.
    :param device: "cpu", or "cuda" for the first GPU.
    :raises BenchmarkError: they are not exported, or CUDA does not work here.
    """
    width, path = text_width(repository), exported(repository, UNET)
    try:
        network = OrtNetwork(path, device=device)
    except RuntimeError as error:
        raise BenchmarkError(str(error)) from None
    numbers = ROWS if device == "cpu" else GPU_ROWS
    return {side: _measure_side(network, numbers, side, width, count, stage(side)) for side, count in rounds.items()}


def _measure_side(
    network: OrtNetwork, numbers: Sequence[int], side: int, width: int, rounds: int, on_round: Callable[[int], None]
) -> dict[int, list[float]]:
    batches = {str(rows): unet_inputs(rows, side, width) for rows in numbers}
    variants = {name: _timed_again(partial(network.run, inputs)) for name, inputs in batches.items()}
    seconds = in_turns(variants, rounds=rounds, on_round=on_round)
    return {int(name): values for name, values in seconds.items()}


def _timed_again(work: Callable[[], object]) -> Timed:
    """`work` twice, with a clock around the second time: on a GPU the first one plans for the shapes (decision 15)."""
    measured = timed(work)

    def run() -> float:
        work()
        return measured()

    return run


def unet_inputs(rows: int, side: int, width: int) -> Tensors:
    """Random inputs of the UNet: `rows` of latents `side` x `side`, 77 tokens of `width`."""
    random = np.random.default_rng(0)
    return {
        "latents": random.standard_normal((rows, LATENT_CHANNELS, side, side), np.float32),
        "timestep": np.full((rows, 1), 500, np.float32),
        "prompt_embeds": random.standard_normal((rows, _TOKENS, width), np.float32),
    }


def per_row(seconds: Mapping[int, list[float]]) -> dict[int, float]:
    """Median seconds per row, by rows."""
    return {rows: statistics.median(values) / rows for rows, values in seconds.items()}


def best_rows(seconds_per_row: Mapping[int, float]) -> int:
    """The smallest batch of which no larger one saves GAIN of the time per row."""
    for rows in sorted(seconds_per_row):
        larger = [value for other, value in seconds_per_row.items() if other > rows]
        if not larger or min(larger) > seconds_per_row[rows] * (1 - GAIN):
            return rows
    raise ValueError("no batch was measured")


def as_rows(seconds: Seconds) -> list[dict[str, Any]]:
    """One entry per cell of the table: medians, and the spread of the time per row between rounds.

    `speedup` is the time of one row alone over the time per row here, the median of the rounds' ratios.
    """
    entries = []
    for side, by_rows in seconds.items():
        for rows, values in by_rows.items():
            ratios = [alone * rows / value for alone, value in zip(by_rows[1], values, strict=True)]
            entries.append(
                {
                    "side": side,
                    "rows": rows,
                    "ms": statistics.median(values) * 1000,
                    "ms_per_row": statistics.median(values) / rows * 1000,
                    "ms_per_row_all": [value / rows * 1000 for value in values],
                    "speedup": statistics.median(ratios),
                }
            )
    return entries


def _present(seconds: Seconds) -> str:
    caps = RowCaps.parse({**UNET.parameters, **UNET.parameters_cpu}["rows_by_size"])
    empty = {side: {caps.input: np.empty((1, LATENT_CHANNELS, side, side))} for side in seconds}
    return ", ".join(f"{caps.most(inputs)} at {side}x{side}" for side, inputs in empty.items())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=REPOSITORY,
    show_default="model_repository",
    help="With the exported UNet and text encoder.",
)
@click.option("--quick", is_flag=True, help="Few rounds and small latents; the numbers mean little.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file. Default: standard output.")
def main(repository: Path, quick: bool, device: str, output: Path | None) -> None:
    """Measure rows per execution against resolution, about a minute on 2 cores, and give the table as JSON."""
    rounds = QUICK_ROUNDS if quick else GPU_ROUNDS if device == "cuda" else ROUNDS
    seconds = measure(repository, rounds, device=device)
    caps = [{"latents": side * side, "rows": best_rows(per_row(by_rows))} for side, by_rows in seconds.items()]
    described = machine.describe() | ({"gpu": gpu_names()[0]} if device == "cuda" and gpu_names() else {})
    content = {"machine": described, "quick": quick, "caps": caps, "cells": as_rows(seconds)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"written: {output}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.sd15.caps")
