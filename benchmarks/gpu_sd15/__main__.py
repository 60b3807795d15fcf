"""`python -m benchmarks.gpu_sd15`: one run for a machine with one NVIDIA GPU, in phases."""

from __future__ import annotations

import signal
from pathlib import Path

import click
import httpx

from benchmarks.errors import BenchmarkError
from benchmarks.gpu_sd15 import phases, report
from benchmarks.gpu_sd15.plan import COMPILED, EAGER, FULL, OURS, QUICK, TINY, Counts, Work, clock
from benchmarks.machine import ROOT

_work_option = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / ".darkroom" / "gpu-sd15",
    show_default=".darkroom/gpu-sd15",
    help="Where the phases keep what they make, about 8 GB.",
)
_output_option = click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Where the report goes. Default: nowhere yet."
)
_tiny_option = click.option("--tiny", is_flag=True, help="The demo's size on the CPU in fp32: to see that it works.")
_quick_option = click.option("--quick", is_flag=True, help="Few jobs; the numbers mean little.")
_force_option = click.option("--force", is_flag=True, help="Measure again what was measured.")
_mode_option = click.option(
    "--compile-mode",
    type=click.Choice(["default", "max-autotune-no-cudagraphs"]),
    default="default",
    show_default=True,
    help="Of torch.compile.",
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  python -m benchmarks.gpu_sd15 all --output results                 every phase
  python -m benchmarks.gpu_sd15 prepare                              the phases one by one; each goes on
  python -m benchmarks.gpu_sd15 serve-and-measure --output results   where the last one stopped
  python -m benchmarks.gpu_sd15 diffusers --output results
  python -m benchmarks.gpu_sd15 all --tiny --quick --output /tmp/x   two minutes on a CPU""",
)
def main() -> None:
    """Stable Diffusion 1.5 at full size with random weights: Darkroom against diffusers, eager and compiled.

    Both get fp16 on the first GPU, 512x512, 20 steps and guidance 7.5, one request and 8 requests at a time.
    This Python has to have what Darkroom needs (with onnxruntime-gpu, and numpy below 2 for Triton's stubs), and
    diffusers with a torch for CUDA; nothing is installed or downloaded.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: everything that was started is stopped


@main.command()
@_work_option
@_tiny_option
def prepare(work: Path, tiny: bool) -> None:
    """Make the checkpoint, export it, and render the repository."""
    phases.prepare(Work(folder=work), TINY if tiny else FULL, clock())


@main.command("serve-and-measure")
@_work_option
@_output_option
@_quick_option
@_force_option
def serve_and_measure(work: Path, output: Path | None, quick: bool, force: bool) -> None:
    """Start the real service on the exported networks and measure it."""
    _darkroom(Work(folder=work), quick, force)
    _report(Work(folder=work), output)


@main.command()
@_work_option
def networks(work: Path) -> None:
    """Compare each exported network with diffusers on the same inputs; part of no report."""
    from benchmarks.gpu_sd15.networks import compare

    compare(Work(folder=work), clock())


@main.command()
@_work_option
@_output_option
@_quick_option
@_force_option
@_mode_option
@click.option("--only", type=click.Choice(["eager", "compiled"]), help="Default: both.")
@click.option("--compiled-batch", is_flag=True, help="Batches of 8 compiled, too; they compile for minutes again.")
def diffusers(
    work: Path,
    output: Path | None,
    quick: bool,
    force: bool,
    compile_mode: str,
    only: str | None,
    compiled_batch: bool,
) -> None:
    """Measure diffusers behind one lock, eager and with a compiled UNet, and eager with batches of 8."""
    if only != "compiled":
        _eager(Work(folder=work), quick, force)
    if only != "eager":
        _compiled(Work(folder=work), quick, force, compile_mode, compiled_batch)
    _report(Work(folder=work), output)


@main.command("report")
@_work_option
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where it goes.")
def report_command(work: Path, output: Path) -> None:
    """Write the report from the results that are there."""
    _report(Work(folder=work), output)


@main.command("all")
@_work_option
@_output_option
@_tiny_option
@_quick_option
@_mode_option
def everything(work: Path, output: Path | None, tiny: bool, quick: bool, compile_mode: str) -> None:
    """Every phase that is not done yet; the report is written after each one."""
    folder = Work(folder=work)
    phases.prepare(folder, TINY if tiny else FULL, clock())
    _darkroom(folder, quick, force=False)
    _report(folder, output)
    _eager(folder, quick, force=False)
    _report(folder, output)
    _compiled(folder, quick, False, compile_mode, batch=False)
    _report(folder, output)


def _darkroom(work: Work, quick: bool, force: bool) -> None:
    if _wanted(work, OURS, force):
        phases.measure_darkroom(work, _counts(quick), clock())


def _eager(work: Work, quick: bool, force: bool) -> None:
    if _wanted(work, EAGER, force):
        phases.measure_diffusers(work, _counts(quick), clock(), compile_mode=None, batch=True)


def _compiled(work: Work, quick: bool, force: bool, compile_mode: str, batch: bool) -> None:
    if _wanted(work, COMPILED, force):
        phases.measure_diffusers(work, _counts(quick), clock(), compile_mode=compile_mode, batch=batch)


def _counts(quick: bool) -> Counts:
    return QUICK if quick else Counts()


def _wanted(work: Work, name: str, force: bool) -> bool:
    if force or work.read(name) is None:
        return True
    click.echo(f"{name} is measured already (--force: again)")
    return False


def _report(work: Work, output: Path | None) -> None:
    if output is not None:
        for path in report.write(work, output):
            click.echo(f"written: {path}")


def run() -> None:
    """The program: `main` with this package's errors as one sentence on stderr and exit code 1."""
    try:
        main(prog_name="python -m benchmarks.gpu_sd15")
    except BenchmarkError as error:
        raise SystemExit(f"Error: {error}") from None
    except httpx.HTTPError as error:
        raise SystemExit(f"Error: {error}; the logs are in WORK/logs.") from None


if __name__ == "__main__":
    run()
