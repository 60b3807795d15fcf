"""One request at a time: the service against the bare loop and against the baseline."""

from __future__ import annotations

import statistics

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.results import Cell, Finding, Section, Table
from benchmarks.sd15.jobs import Job, make_jobs, pictures, require_same
from benchmarks.sd15.loop import Loop
from benchmarks.timing import in_turns, latencies, ratio, timed

LOOP_TARGET = 1.10
BASELINE_TARGET = 1 / 1.2
STEPS = 20
# The side of the demo images, and one at which computing dominates; rounds by side.
_SIDES = {128: 20, 256: 8}
_QUICK_SIDES = {128: 1}

REST, LOOP, BASELINE = "REST", "bare loop", "baseline"


def run(context: Context) -> Section:
    """Seconds of `POST /generate`, of the loop and of the baseline, in turns."""
    loop = Loop(context.repository)
    steps = context.choose(STEPS, 4)
    findings: list[Finding] = []
    rows: list[tuple[Cell, ...]] = []
    with Rest(context.service) as rest, Rest(context.baseline) as baseline:
        for side, rounds in (_QUICK_SIDES if context.quick else _SIDES).items():
            found, lines = _compare(context, make_jobs(1, steps=steps, side=side)[0], rounds, loop, rest, baseline)
            findings += found
            rows += lines
    table = Table(
        title=f"{steps} steps with guidance, one request at a time",
        columns=("picture", "who", "rounds", "p50 ms", "p95 ms", "p99 ms", "images/s"),
        rows=tuple(rows),
        note="In turns. `pipeline alone` is the baseline's own clock around diffusers' call: without HTTP and without "
        "Pillow's PNG encoding. All three make the same picture within 2 of 255, which is checked first.",
    )
    return Section(name="sd15_latency", title="Text to image, latency", findings=tuple(findings), tables=(table,))


def _compare(
    context: Context, job: Job, rounds: int, loop: Loop, rest: Rest, baseline: Rest
) -> tuple[list[Finding], list[tuple[Cell, ...]]]:
    body, size = job.body(), f"{job.side}x{job.side}"
    alone: list[float] = []

    def ask_baseline() -> None:
        alone.append(baseline.generate(body)["timings"]["generated"])

    context.stage(f"comparing pictures, {size}")
    reference = loop.run([job])
    require_same(pictures(rest.generate(body)), reference, "the service and the bare loop")
    require_same(pictures(baseline.generate(body)), reference, "the baseline and the bare loop")
    variants = {
        REST: timed(lambda: rest.generate(body)),
        LOOP: timed(lambda: loop.run([job])),
        BASELINE: timed(ask_baseline),
    }
    context.stage(f"latency, {size}", rounds + 1)
    seconds = in_turns(variants, rounds=rounds, on_round=context.step)
    seconds["baseline, pipeline alone"] = alone[-rounds:]  # the first round does not count
    case = f"({size}, {job.steps} steps, 1 client)"
    findings = [
        ratio(f"REST / bare loop {case}", seconds[REST], seconds[LOOP], target=LOOP_TARGET),
        ratio(f"REST / baseline {case}", seconds[REST], seconds[BASELINE], target=BASELINE_TARGET),
        ratio(f"REST / baseline's pipeline alone {case}", seconds[REST], seconds["baseline, pipeline alone"]),
    ]
    lines: list[tuple[Cell, ...]] = [
        (size, name, rounds, *latencies(values), 1 / statistics.median(values)) for name, values in seconds.items()
    ]
    return findings, lines
