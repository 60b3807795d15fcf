"""NVIDIA's perf_analyzer at the UNet, and at the streaming pipeline around it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.context import Context
from benchmarks.perf_analyzer import COLUMNS, NOTE, Target, measure
from benchmarks.results import Section, Table
from benchmarks.sd15.jobs import Job, make_jobs
from benchmarks.sd15.loop import text_width
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, PIPELINE, UNET, VAE_SCALE_FACTOR

_STEPS = 20
_SIDE = 128
_TOKENS = 77


def run(context: Context) -> Section:
    """Throughput, latency and batch sharing: single rows at the UNet, whole jobs at the pipeline."""
    job = make_jobs(1, steps=context.choose(_STEPS, 4), side=_SIDE)[0]
    side = job.side // VAE_SCALE_FACTOR
    shapes = (
        f"latents:{LATENT_CHANNELS},{side},{side}",
        "timestep:1",
        f"prompt_embeds:{_TOKENS},{text_width(context.repository)}",
    )
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder, "request.json")
        request.write_text(request_data(job))
        targets = (
            Target(
                model=UNET.name,
                options=tuple(word for shape in shapes for word in ("--shape", shape)),
                requests=context.choose(1000, 20),
            ),
            Target(
                model=PIPELINE.name,
                options=("--async", "--streaming", "--input-data", str(request)),
                requests=context.choose(32, 3),
            ),
        )
        levels = (1, 2) if context.quick else (1, 2, 4, 8)
        rows = measure(context, targets, levels=levels, network=UNET.name)
    table = Table(
        title=f"Rows of {side}x{side} latents at the UNet; {job.steps} steps at {_SIDE}x{_SIDE} at the pipeline",
        columns=COLUMNS,
        rows=rows,
        note=NOTE,
    )
    return Section(name="sd15_perf_analyzer", title="Text to image, perf_analyzer at Triton's gRPC", tables=(table,))


def request_data(job: Job) -> str:
    """The --input-data file: one request of the pipeline."""
    fields = {name: value for name, value in job.body().items() if name in {spec.name for spec in PIPELINE.inputs}}
    return json.dumps({"data": [{name: [value] for name, value in fields.items()}]})
