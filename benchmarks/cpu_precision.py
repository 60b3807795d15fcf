"""Networks in bfloat16 on the CPU against fp32: seconds in turns, and how far the images differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks.context import REPOSITORY, Context
from benchmarks.errors import BenchmarkError
from benchmarks.local import as_pixels, photo
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.timing import in_turns, ratio, timed
from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.serving.batching import NetworkCall
from darkroom.serving.model_config import as_dict, read_config
from darkroom.serving.networks import Array
from darkroom.serving.onnx import bf16
from darkroom.serving.onnx.network import OnnxNetwork

SPEED_TARGET, PSNR_TARGET = 1.8, 45.0
_VARIABLE = "CPU_PRECISION"
_PRECISIONS = {"fp32": "fp32", "bfloat16": "auto"}


def run(context: Context) -> Section:
    """Each upscaler on one tile of a photo, with the threads that it has in the service.

    :raises BenchmarkError: this machine does not run networks in bfloat16, or a network is not exported.
    """
    if reason := bf16.reason_against():
        raise BenchmarkError(f"networks cannot run in bfloat16 here: {reason}")
    rounds, side = context.choose(7, 2), context.choose(192, 64)
    image = as_pixels(photo(side, left=180, top=40))[None]
    findings: list[Finding] = []
    rows: list[tuple[Cell, ...]] = []
    for network in NETWORKS:
        context.stage(network.label, rounds)
        made = {name: _opened(network.model_name, value) for name, value in _PRECISIONS.items()}
        images = {name: _run(one, image) for name, one in made.items()}
        variants = {name: timed(partial(_run, one, image)) for name, one in made.items()}
        seconds = in_turns(variants, rounds=rounds, on_round=context.step)
        decibels = _psnr(*images.values())
        findings += [
            ratio(
                f"{network.label}: fp32's seconds / bfloat16's",
                seconds["fp32"],
                seconds["bfloat16"],
                target=SPEED_TARGET,
                at_least=True,
            ),
            Finding(
                name=f"{network.label}: PSNR to fp32", value=decibels, unit="dB", target=PSNR_TARGET, at_least=True
            ),
        ]
        rows.append((network.label, min(seconds["fp32"]), min(seconds["bfloat16"]), decibels))
        for one in made.values():
            one.close()
    table = Table(
        title=f"One tile of {side}x{side} pixels, shortest run",
        columns=("network", "fp32, s", "bfloat16, s", "PSNR, dB"),
        rows=tuple(rows),
    )
    return Section(name="cpu_precision", title="bfloat16 on the CPU", findings=tuple(findings), tables=(table,))


def _opened(name: str, precision: str) -> OnnxNetwork:
    config: Any = read_config(REPOSITORY / name)
    if config is None or not (REPOSITORY / name / "1" / "model.onnx").exists():
        raise BenchmarkError(f"{name} is not exported; run: python -m exporters prepare")
    with _environment(precision):
        return OnnxNetwork(as_dict(config), REPOSITORY / name, "1", kind="CPU", device=0, warn=print)


@contextmanager
def _environment(precision: str) -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = precision
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE)
        if before is not None:
            os.environ[_VARIABLE] = before


def _run(network: OnnxNetwork, image: Array) -> Array:
    (answer,) = network.execute([NetworkCall({"image": image}, ("upscaled",))])
    if isinstance(answer, Exception):
        raise BenchmarkError(f"the network failed: {answer}")
    return answer["upscaled"]


def _psnr(one: Array, other: Array) -> float:
    error = np.square(one.astype(np.float64) - other.astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
