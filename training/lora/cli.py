"""`python -m training lora`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darkroom.errors import Conflict, DarkroomError, to_wire
from darkroom.parallel.processes import die_with_parent
from darkroom.request.request import kind_of
from darkroom.request.training import TrainingOptions
from exporters.errors import ExportError

if TYPE_CHECKING:
    import torch

STOPPED = 130
"""Exit code of a run that was stopped and can go on."""
_folder = click.Path(file_okay=False, path_type=Path)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each field of the training, with its help; `TrainingOptions.parse` has the ranges."""
    for name in reversed(list(TrainingOptions.fields())):
        default, about = TrainingOptions.model_fields[name].default, TrainingOptions.fields()[name]
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=kind_of(TrainingOptions, name),
            show_default=False if default is None or default in about.also else str(default),
            help=about.help,
        )(command)
    return command


@click.command(
    epilog="""\b
Examples:
  python -m training lora photos/ --checkpoint /data/my-checkpoint --output my-style.safetensors
  python -m training lora photos/ --checkpoint owner/name --output my-style.safetensors --steps 1500 --rank 16
\b
Each image needs a .txt of its name with what it shows. Ctrl-C stops with a saved state; the same command goes on from
it and makes the same file. Progress is a line of JSON for each step.""",
)
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--checkpoint", required=True, help="A folder in the diffusers layout, a single file, or a hub id.")
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The LoRA file to write."
)
@click.option("--state", type=_folder, help="Where the run keeps its state.  [default: OUTPUT with the ending .state]")
@_options
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N; auto is CUDA where there is one."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Of the CPU.  [default: half of the cores]")
@click.option(
    "--save-seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="Time between saved states."
)
@click.option("--title", help="What the metadata of the file call the LoRA.  [default: the name of OUTPUT]")
@click.option(
    "--nice", type=click.IntRange(0, 19), default=0, show_default=True, help="How far other programs go first."
)
@click.option("--parent", type=int, hidden=True, help="The process without which this one ends.")
def lora(
    images: Path,
    checkpoint: str,
    output: Path,
    state: Path | None,
    device: str,
    threads: int | None,
    save_seconds: float,
    title: str | None,
    nice: int,
    parent: int | None,
    **options: Any,
) -> None:
    """Train a LoRA on the captioned images in IMAGES and its sub-folders."""
    if parent is not None:
        die_with_parent(signal.SIGKILL, parent)
    if hasattr(os, "nice"):  # not on Windows
        os.nice(nice)
    stop = _stopped_by_signals()
    from training.lora.plan import seed_of
    from training.lora.run import LoraRun, run_training
    from training.lora.trainer import Stopped

    folder = state or output.with_suffix(".state")
    options["seed"] = seed_of(folder) if options["seed"] is None else options["seed"]
    try:
        run = LoraRun(
            images=images,
            checkpoint=checkpoint,
            state=folder,
            output=output,
            title=title or output.stem,
            options=TrainingOptions.parse(options, None),
            device=_device(device),
            threads=threads or max(1, (os.cpu_count() or 1) // 2),
            save_seconds=save_seconds,
        )
        run_training(run, _report, stop)
    except Stopped:
        click.echo("stopped; the state is saved, and the same command goes on", err=True)
        sys.exit(STOPPED)
    except DarkroomError as error:
        _report({"error": to_wire(error)})
        raise click.ClickException(error.message) from None
    except ExportError as error:
        # The text may have paths, which are for the log alone.
        _report({"error": to_wire(Conflict("The checkpoint cannot be trained on; the log of the service says why."))})
        raise click.ClickException(str(error)) from None


def _device(name: str) -> torch.device:
    """The device of that name, whose sums are the same from run to run as far as it can.

    :raises Conflict: it is not there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from training.train import choose_device

    try:
        device = choose_device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # torch asserts that it was built for CUDA
        raise Conflict(f"There is no device {name!r} to train on here.", param="device") from None
    torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def _report(line: dict[str, Any]) -> None:
    """One line of JSON for programs that read our output."""
    print(json.dumps(line), flush=True)  # noqa: T201


def _stopped_by_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set. A second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def note(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return stop
