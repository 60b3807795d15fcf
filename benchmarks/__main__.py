"""`python -m benchmarks`: the one command."""

from __future__ import annotations

import datetime
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks import (
    audit,
    cpu_precision,
    encoders,
    estimates,
    fairness,
    load,
    machine,
    memory,
    metrics_cost,
    overhead,
    perf_analyzer,
    policy,
    reference,
    swapping,
    two_tritons,
)
from benchmarks.context import CHECKPOINT, REPOSITORY, Context
from benchmarks.errors import BenchmarkError
from benchmarks.qwen_edit import throughput as edits
from benchmarks.results import Report, Section, Table, findings_table, shown, write_report
from benchmarks.sd15 import (
    caps,
    engines,
    latency,
    loras,
    new_thing,
    perf,
    queue_delay,
    short_job,
    step_parts,
    throughput,
)
from benchmarks.sdxl import loras as sdxl_loras

# In this order: the last three stop the service that the others share.
BENCHMARKS: dict[str, Callable[[Context], Section]] = {
    "overhead": overhead.run,
    "reference": reference.run,
    "encoders": encoders.run,
    "cpu_precision": cpu_precision.run,
    "policy": policy.run,
    "perf_analyzer": perf_analyzer.run,
    "load": load.run,
    "fairness": fairness.run,
    "estimates": estimates.run,
    "audit": audit.run,
    "engines": engines.run,
    "metrics": metrics_cost.run,
    "sd15_latency": latency.run,
    "sd15_step_parts": step_parts.run,
    "sd15_throughput": throughput.run,
    "sd15_short_job": short_job.run,
    "sd15_perf_analyzer": perf.run,
    "sd15_queue_delay": queue_delay.run,
    "sd15_batch_caps": caps.run,
    "sd15_loras": loras.run,
    "sdxl_loras": sdxl_loras.run,
    "sd15_new_thing": new_thing.run,
    "qwen_edit": edits.run,
    "swapping": swapping.run,
    "two_tritons": two_tritons.run,
    "memory": memory.run,
}


_PAGE_WIDTH = 130  # of what goes into a file or a pipe
_BUSY = 0.25  # load per core


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Benchmarks:
  overhead            REST against a bare ONNX Runtime loop over the same tiles, and where the difference goes
  reference           REST against Real-ESRGAN by ncnn on the same CPU (installs itself into .darkroom/)
  encoders            the PNG writer against Pillow and the alternatives
  cpu_precision       upscalers in bfloat16 on the CPU (CPU_PRECISION=auto) against fp32
  policy              what a content policy of 5,000 words costs a request
  perf_analyzer       NVIDIA's load generator at the upscaling network and at its pipeline
  load                REST upscaling with 1 to 8 clients
  fairness            a small upscale beside a large one, a 4-step job beside 40 of 50 steps
  estimates           estimated_time and Retry-After of durable tasks against what came
  audit               what the audit trail costs the proxy at 100 requests a second
  engines             text to image over REST on Triton and on the local engine
  metrics             what GET /metrics and the measuring for it cost, at the service with the smallest images
  sd15_latency        text to image, one request at a time: REST, bare loop, diffusers behind a lock
  sd15_step_parts     what a step of the service spends its time on, beside one of the bare loop
  sd15_throughput     REST, bare loop and diffusers with 8 requests at a time, and who needs the CPU
  sd15_short_job      a 4-step job sent behind a 50-step job, against diffusers behind a lock
  sd15_perf_analyzer  NVIDIA's load generator at the UNet and at the text-to-image pipeline
  sd15_queue_delay    batches that wait 0, 1, 2 and 5 ms for company
  sd15_batch_caps     rows per execution against resolution, at the UNet
  sd15_loras          what LoRAs cost at the UNet, one for all rows and another one for each
  sdxl_loras          what LoRAs of several requests cost in one batch of Stable Diffusion XL
  sd15_new_thing      what a LoRA learns of a thing that is new to the demo, and what other prompts lose (about 15 min)
  qwen_edit           edits by 1, 4 and 8 clients, against diffusers behind a lock, on random weights
  swapping            seconds to the first step with a loaded family and in place of another (DEVICE_MEMORY_GB)
  two_tritons         two Tritons on a core each behind one proxy, against one
  memory              peak memory for a picture of 8192x8192 (full run only)

\b
Examples:
  python -m benchmarks                          everything, about half an hour on 2 cores; leave them alone
  python -m benchmarks --quick                  some minutes, to see that it works
  python -m benchmarks --only overhead --only encoders
  python -m benchmarks.baseline --help          diffusers behind a lock, alone
  python -m benchmarks.gpu_sd15 --help          Stable Diffusion 1.5 at full size on one GPU
  python -m benchmarks.keys --help              right keys against wrong ones, and what limits cost; no service""",
)
@click.option("--quick", is_flag=True, help="Few rounds and small pictures; the numbers mean little.")
@click.option("--only", "names", multiple=True, type=click.Choice(list(BENCHMARKS)), help="One benchmark; repeatable.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=machine.ROOT / "benchmarks" / "results",
    show_default="benchmarks/results",
    help="Where the results go.",
)
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=REPOSITORY,
    show_default="model_repository",
    help="The model repository to serve.",
)
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    default=CHECKPOINT,
    show_default="checkpoints/demo-sd15",
    help="The text-to-image checkpoint that the repository was exported from, for the baseline.",
)
def main(quick: bool, names: tuple[str, ...], output: Path, repository: Path, checkpoint: Path) -> None:
    """Measure Darkroom against references that run beside it, in turns, on this machine.

    Starts the service itself, on free ports. Prints ratios and absolute figures, and writes them to
    MACHINE.json and MACHINE.md in the output folder; -quick or -partial is added to the name where that fits.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: everything that was started is stopped
    chosen = names or tuple(BENCHMARKS)
    described = machine.describe()
    _warn_when_busy()
    sections: list[Section] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(width=None if sys.stdout.isatty() else _PAGE_WIDTH)
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with progress, Context(quick=quick, progress=progress, repository=repository, checkpoint=checkpoint) as context:
        described["triton"] = context.service.version()
        for name in BENCHMARKS:
            if name in chosen:
                sections.append(_run(name, context))
                _show(console, sections[-1])
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    report = Report(date=date, quick=quick, machine=described, sections=tuple(sections))
    console.print(_rich(findings_table(report.sections)))
    stem = machine.slug(described) + ("-quick" if quick else "") + ("-partial" if names else "")
    for path in write_report(report, output, stem):
        click.echo(f"written: {path}")


def _warn_when_busy() -> None:
    load = os.getloadavg()[0]
    if load > _BUSY * (os.cpu_count() or 1):
        click.secho(f"Other programs keep this machine busy (load {load:.1f}); the numbers will show it.", err=True)


def _run(name: str, context: Context) -> Section:
    """One benchmark. What cannot run is reported with its reason, and the others go on."""
    try:
        return BENCHMARKS[name](context)
    except (BenchmarkError, httpx.HTTPError) as error:
        return Section(name=name, title=name, missing=str(error) or type(error).__name__)


def _show(console: Console, section: Section) -> None:
    console.rule(section.title)
    if section.missing:
        console.print(f"Not run: {section.missing}", markup=False)
    for table in section.tables:
        console.print(_rich(table))


def _rich(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, caption=table.note or None, title_justify="left", caption_justify="left")
    for place, column in enumerate(table.columns):
        numbers = all(not isinstance(row[place], str) for row in table.rows)
        drawn.add_column(column, justify="right" if numbers else "left")
    for row in table.rows:
        drawn.add_row(*(shown(cell) for cell in row))
    return drawn


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
