"""Edits per second of the service and of a plain locked server over the same weights, with 1, 4 and 8 clients."""

from __future__ import annotations

import base64
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clients import Post, closed_loop
from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT
from benchmarks.metrics import Counts
from benchmarks.processes import Server
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import content, pictures, require_same
from benchmarks.service import RunningService
from benchmarks.subjects import measured_service, running_baseline
from benchmarks.timing import Timed, in_turns, latencies, ratio, timed
from darkroom.pipelines.qwen_edit.networks import TRANSFORMER
from darkroom.png import encode_png

CLIENTS = (1, 4, 8)
SIDE, STEPS, GUIDANCE = 128, 8, 4.0
JOBS = 8
"""Of a round."""
_PROMPTS = (
    "make the background red",
    "put the cat and the dog on a green hill, side by side",
    "remove the sign",
    "change the style to a pencil drawing and keep the composition as it is",
)
_BASELINE = "benchmarks.qwen_edit.baseline"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One request."""

    number: int
    steps: int

    def post(self) -> Post:
        squares = np.random.default_rng(self.number).integers(0, 256, (8, 8, 3), np.uint8)
        image = squares.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        body = {
            "prompt": _PROMPTS[self.number % len(_PROMPTS)],
            "image_base64": base64.b64encode(encode_png(image)).decode(),
            "num_inference_steps": self.steps,
            "true_guidance_scale": GUIDANCE,
            "seed": 1000 + self.number,
            "align": False,
        }
        return lambda http: http.post("/edit/json", json=body)


def run(context: Context) -> Section:
    """Bursts of edits of other images and prompts, in turns, for each number of clients."""
    context.stop_servers()
    posts = [Edit(number=number, steps=context.choose(STEPS, 2)).post() for number in range(context.choose(JOBS, 4))]
    with tempfile.TemporaryDirectory(prefix="darkroom-edits-") as name:
        context.stage("exporting random weights")
        checkpoint, repository = Path(name) / "checkpoint", Path(name) / "models"
        _export(checkpoint, repository)
        context.stage("starting the service and the baseline")
        with (
            running_baseline(checkpoint, module=_BASELINE) as baseline,
            measured_service(repository=repository) as service,
        ):
            context.stage("comparing results")
            _compare(posts, service, baseline)
            return _measured(context, posts, service, baseline)


def _export(checkpoint: Path, repository: Path) -> None:
    """:raises BenchmarkError: the export failed; with what it said."""
    from benchmarks.qwen_edit.checkpoint import write_checkpoint  # torch and diffusers

    write_checkpoint(checkpoint)
    words = ["qwen-edit", "--checkpoint", str(checkpoint), "--output", str(repository)]
    done = subprocess.run([sys.executable, "-m", "exporters", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"the export failed: {done.stderr.strip()[-500:]}")


def _compare(posts: Sequence[Post], service: Server, baseline: Server) -> None:
    """:raises BenchmarkError: the two make different images, so that their times cannot be compared."""
    made = [
        {found["seed"]: pictures(found) for found in map(content, closed_loop(server, posts, clients=4))}
        for server in (service, baseline)
    ]
    for seed, mine in made[0].items():
        require_same(mine, made[1][seed], "the service and the baseline")


def _measured(context: Context, posts: Sequence[Post], service: RunningService, baseline: Server) -> Section:
    rounds = context.choose(3, 1)
    findings: list[Finding] = []
    rows: list[tuple[Cell, ...]] = []
    for clients in CLIENTS:
        each: dict[str, list[float]] = {"REST": [], "baseline": []}
        variants = {
            "REST": _burst(service, posts, clients, each["REST"]),
            "baseline": _burst(baseline, posts, clients, each["baseline"]),
        }
        before = service.counts(TRANSFORMER.name)
        context.stage(f"edits, {clients} clients", rounds + 1)
        seconds = in_turns(variants, rounds=rounds, on_round=context.step)
        counts = service.counts(TRANSFORMER.name).since(before)
        name = f"REST edits/s / baseline's ({clients} clients)"
        findings.append(ratio(name, seconds["baseline"], seconds["REST"]))  # no target before it is measured quietly
        rows += [_row(who, clients, len(posts), seconds[who], each[who], counts) for who in variants]
    table = Table(
        title=f"{len(posts)} edits a round, {SIDE}x{SIDE}, {context.choose(STEPS, 2)} steps with guidance",
        columns=("who", "clients", "edits/s", "p50 ms", "p95 ms", "p99 ms", "rows per execution"),
        rows=tuple(rows),
        note="Other images and prompts in each edit. The baseline is diffusers' pipeline behind a lock, over the same "
        "checkpoint of 12 M weights; both run in float32. Edits/s is that of the median round.",
    )
    return Section(name="qwen_edit", title="Edits by 1, 4 and 8 clients", findings=tuple(findings), tables=(table,))


def _row(
    who: str, clients: int, jobs: int, seconds: Sequence[float], each: Sequence[float], counts: Counts
) -> tuple[Cell, ...]:
    together = counts.rows_per_execution if who == "REST" else None
    return who, clients, jobs / statistics.median(seconds), *latencies(each[jobs:]), together


def _burst(server: Server, posts: Sequence[Post], clients: int, took: list[float]) -> Timed:
    """Sends all edits; the seconds of each are added to `took`."""

    def once() -> Any:
        took.extend(answer.seconds for answer in closed_loop(server, posts, clients=clients))

    return timed(once)
