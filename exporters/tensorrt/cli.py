"""`python -m exporters tensorrt`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from darkroom.serving.networks import ModelSpec, split_label
from exporters import repository
from exporters.errors import ExportError
from exporters.onnx_export import MODEL_NAME
from exporters.options import cache_option, output_option
from exporters.tensorrt import build, engines
from exporters.tensorrt.graph import EnginePrecision
from exporters.tensorrt.plan import GIB, EnginePlan, describe, engine_sizes, make_plan
from exporters.tensorrt.target import Target, building_gpu, engine_name, visible_gpus


def _networks(output: Path) -> list[ModelSpec]:
    """The networks of a repository of which an engine can be built, whatever their label."""
    sizes = engine_sizes()
    return [spec for spec in repository.specs_of(output) if split_label(spec.name)[0] in sizes]


@click.command(
    epilog="""\b
Examples:
  python -m exporters tensorrt                                      every exported network
  python -m exporters tensorrt --model NAME --precision fp16
  python -m exporters tensorrt --model NAME --dry-run               what would be built; needs no GPU
  python -m exporters tensorrt --max-batch 4 --max-side 768         for GPUs with less memory
  CUDA_VISIBLE_DEVICES=1 python -m exporters tensorrt               on another GPU than the first
Then: python -m exporters config --engine tensorrt --gpus 0"""
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Which network; may be repeated. Default: all that are exported.",
)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Default: that of the exported model.")
@click.option("--max-batch", type=click.IntRange(1, 64), help="Largest batch. Default: what suits each network.")
@click.option(
    "--max-side",
    type=click.IntRange(1, 8192),
    metavar="PIXELS",
    help="Largest side of an image or tile. Default: what suits each.",
)
@click.option(
    "--workspace-gib",
    type=click.FloatRange(0.25, 512),
    default=8.0,
    show_default=True,
    help="Scratch memory that a kernel may ask for.",
)
@click.option("--dry-run", is_flag=True, help="Print the plans and build nothing; needs neither TensorRT nor a GPU.")
@click.option("--force", is_flag=True, help="Build even what is up to date.")
@output_option("The model repository with the exported networks, which gets the engines.")
@cache_option("Where the timing caches are kept.")
def tensorrt(
    models: Sequence[str],
    precision: EnginePrecision | None,
    max_batch: int | None,
    max_side: int | None,
    workspace_gib: float,
    dry_run: bool,
    force: bool,
    output: Path,
    cache: Path,
) -> None:
    """Build TensorRT engines of exported networks, for the GPU and the TensorRT of this machine.

    An engine lies beside its model.onnx, with engine.json to say what it is of; what is up to date is left alone. It
    runs on GPUs of the same architecture, under a Triton server with the same version of TensorRT.
    """
    networks = _networks(output)
    exported = [spec for spec in networks if _file(output, spec).is_file()]
    specs = repository.chosen(output, models, networks) if models else exported
    if not specs:
        raise ExportError(f"No exported network is in {output}; run first: python -m exporters prepare")
    plans = {
        spec.name: make_plan(
            spec,
            _file(output, spec),
            precision=precision,
            max_batch=max_batch,
            max_side=max_side,
            workspace=int(workspace_gib * GIB),
        )
        for spec in specs
    }
    if dry_run:
        for plan in plans.values():
            click.echo(describe(plan, _expected_name(plan)))
        return
    gpu = building_gpu()
    trt = build.load_tensorrt()
    target = Target(gpu=gpu, tensorrt=trt.__version__)
    for name, plan in plans.items():
        _build_one(trt, target, plan, output / name / "1", cache / "tensorrt", force)


def _file(repository: Path, spec: ModelSpec) -> Path:
    return repository / spec.name / "1" / MODEL_NAME


def _expected_name(plan: EnginePlan) -> str:
    """The engine's name as far as it can be known without TensorRT."""
    gpus = visible_gpus()
    return engine_name(plan.precision, gpus[0].arch if gpus else "<GPU>", "<TensorRT>")


def _build_one(trt: object, target: Target, plan: EnginePlan, folder: Path, cache: Path, force: bool) -> None:
    installed = None if force else engines.up_to_date(folder, plan, target)
    if installed is not None:
        click.echo(f"{plan.model}: up to date ({installed.file})")
        return
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"))
    began = time.perf_counter()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task(plan.model, total=1.0, phase="")
        data = build.build(
            trt,
            plan,
            folder / MODEL_NAME,
            timing_cache=cache / target.timing_name,
            report=lambda share, phase: progress.update(bar, completed=share, phase=phase),
        )
    try:
        engine = engines.install(folder, plan, target, data, time.perf_counter() - began)
    except OSError as error:
        raise ExportError(f"{plan.model}: the engine cannot be written to {folder}: {error.strerror}.") from None
    click.echo(
        f"{plan.model}: built ({engine.file}, {engine.state.size / 1e6:.1f} MB, {engine.seconds:.0f} s, "
        f"{target.gpu.name}, TensorRT {target.tensorrt})"
    )
