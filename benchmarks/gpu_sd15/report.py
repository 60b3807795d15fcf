"""What the phases left, as one report."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.errors import BenchmarkError
from benchmarks.gpu_sd15.plan import CLIENTS, COMPILED, EAGER, OURS, Case, Work
from benchmarks.local import as_pixels
from benchmarks.results import Cell, Finding, Report, Section, Table, write_report
from benchmarks.timing import latencies
from darkroom.devices import gpu_names
from darkroom.pipelines.sd15.networks import UNET

SUBJECTS = (OURS, EAGER, COMPILED)
LIKENESS = 2.0
"""Levels of 255 that the images of one seed may differ in the mean: fp16 by two sets of kernels."""
_COMMAND = "python -m benchmarks.gpu_sd15"


def write(work: Work, output: Path) -> list[Path]:
    """Write GPU.json and GPU.md (named after the GPU) from the results that are there.

    :raises BenchmarkError: there is none.
    """
    case = work.case()
    results = {name: found for name in SUBJECTS if (found := work.read(name)) is not None}
    if not results:
        raise BenchmarkError(f"{work.folder} has no results yet.")
    described = machine.describe() | _gpu(results)
    section = Section(
        name="gpu_sd15",
        title=f"Stable Diffusion 1.5 ({case.size} size, random weights), {case.precision} on {case.device}",
        findings=(*_alone(results, case), *_together(results, case), *_likeness(work, results)),
        tables=(_table(results, case),),
        missing=", ".join(f"{name} was not measured" for name in SUBJECTS if name not in results),
    )
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    quick = any(found["quick"] for found in results.values())
    report = Report(date=date, quick=quick, machine=described, sections=(section,), command=_COMMAND)
    return write_report(report, output, f"{machine.slug(described)}-sd15" + ("-tiny" if case.size == "demo" else ""))


def _gpu(results: Mapping[str, Any]) -> dict[str, str]:
    found = {"gpu": gpu_names()[0]} if gpu_names() else {}
    if torch.version.cuda:
        found["cuda of torch"] = torch.version.cuda
    ours = results.get(OURS, {})
    found |= {"triton": ours["triton"], "provider": ours["provider"] or "not said"} if ours else {}
    mode = results.get(COMPILED, {}).get("compile_mode")
    return found | ({"torch.compile mode": mode} if mode else {})


def _alone(results: Mapping[str, Any], case: Case) -> list[Finding]:
    """Median latency of the service over that of each way to run diffusers."""
    if OURS not in results:
        return []
    ours = _median(results[OURS]["alone"], "seconds")
    findings = []
    for name in (EAGER, COMPILED):
        if name in results:
            jobs = results[name]["alone"]
            what = f"({case.side}x{case.side}, {case.steps} steps, 1 client)"
            for key, part in (("seconds", ""), ("generated", "'s pipeline alone")):
                value = ours / _median(jobs, key)
                findings.append(Finding(name=f"latency, {OURS} / {name}{part} {what}", value=value, rounds=len(jobs)))
    return findings


def _together(results: Mapping[str, Any], case: Case) -> list[Finding]:
    """Images per second of the service over those of each way to run diffusers."""
    if OURS not in results:
        return []
    ours = _images_per_second(results[OURS]["together"])
    what = f"({case.side}x{case.side}, {case.steps} steps, {CLIENTS} clients)"
    findings = []
    for name in (EAGER, COMPILED):
        if name in results:
            value = ours / _images_per_second(results[name]["together"])
            findings.append(Finding(name=f"images/s, {OURS} / {name} {what}", value=value))
            if batch := results[name].get("batch"):
                value = ours * _median(batch, "seconds") / CLIENTS
                findings.append(
                    Finding(name=f"images/s, {OURS} / {name} with batches of {CLIENTS} {what}", value=value)
                )
    return findings


def _likeness(work: Work, results: Mapping[str, Any]) -> list[Finding]:
    """How far the images of one seed are from diffusers' own, so that it is known that the same work was done."""
    found = []
    for name in (EAGER, COMPILED):
        if OURS in results and name in results:
            ours, theirs = (as_pixels(work.picture(who).read_bytes()).astype(np.int16) for who in (OURS, name))
            value = float(np.abs(ours - theirs).mean())
            found.append(
                Finding(
                    name=f"mean difference of the pictures, {OURS} and {name}",
                    value=value,
                    unit="of 255",
                    target=LIKENESS,
                )
            )
    return found


def _table(results: Mapping[str, Any], case: Case) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, result in results.items():
        for clients, jobs, rate in (
            (1, result["alone"], 1 / _median(result["alone"], "seconds")),
            (CLIENTS, result["together"]["jobs"], _images_per_second(result["together"])),
        ):
            seconds = [job["seconds"] for job in jobs]
            inside = _median(jobs, "generated") * 1000 if "generated" in jobs[0] else None
            encoded = _median(jobs, "encoded") * 1000 if "encoded" in jobs[0] else None
            shared = result.get("rows_per_execution") if clients > 1 else None
            rows.append((name, clients, len(jobs), rate, *latencies(seconds), inside, encoded, shared))
        if batch := result.get("batch"):
            seconds = [job["seconds"] for job in batch]
            inside, encoded = (_median(batch, key) * 1000 for key in ("generated", "encoded"))
            rate = CLIENTS / statistics.median(seconds)
            who = f"{name}, {CLIENTS} as one batch"
            rows.append((who, 1, len(batch), rate, *latencies(seconds), inside, encoded, 2 * CLIENTS))
    return Table(
        title=f"{case.side}x{case.side}, {case.steps} steps with guidance, PNDM",
        columns=(
            *("who", "clients", "jobs", "images/s", "p50 ms", "p95 ms", "p99 ms"),
            *("pipeline ms", "PNG ms", f"rows per execution of {UNET.name}"),
        ),
        rows=tuple(rows),
        note="`pipeline` and `PNG` are the diffusers server's own clocks. It is FastAPI around one lock "
        "(benchmarks/baseline). The weights are random: the time is that of trained ones, the pictures mean nothing.",
    )


def _images_per_second(together: Mapping[str, Any]) -> float:
    return float(len(together["jobs"]) / together["seconds"])


def _median(jobs: list[dict[str, float]], key: str) -> float:
    return statistics.median(job[key] for job in jobs)
