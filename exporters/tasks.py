"""Runs exports one after another: a line for each, and on a terminal a bar with its stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from darkroom.serving.networks import ModelSpec
from exporters import repository
from exporters.errors import ExportError
from exporters.manifest import Manifest

Stage = Callable[[str], None]
"""Called with the name of each stage when it starts."""


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """The export of one model.

    :param repository: the model repository that gets it.
    :param up_to_date: the installed export when there is nothing to do, else None. Imports no torch.
    :param export: does it. May raise ExportError.
    :param difference: text about a finished export, shown beside its size and time.
    :param also: models without files that come to the repository with it.
    :param like: the model whose devices it gets where it is new in the repository; None = the usual ones there.
    """

    spec: ModelSpec
    repository: Path
    stages: Sequence[str]
    up_to_date: Callable[[], Manifest | None]
    export: Callable[[Stage], Manifest]
    difference: Callable[[Manifest], str]
    like: ModelSpec | None = None
    also: Sequence[ModelSpec] = ()

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.spec.name

    @property
    def folder(self) -> Path:
        """The version folder that it writes to."""
        return self.repository / self.name / "1"


def run_tasks(tasks: Iterable[ExportTask], *, force: bool = False, quiet: bool = False) -> None:
    """Export what is not up to date, a line for each; `quiet` leaves the others unmentioned.

    A model that is new in its repository gets its config.

    :raises ExportError: of the first task that fails, a full disk included.
    """
    for task in tasks:
        run_task(task, force=force, quiet=quiet)
        for spec in (task.spec, *task.also):
            repository.place(task.repository, spec, task.like)


def run_task(task: ExportTask, *, force: bool, quiet: bool) -> None:
    """As `run_tasks`, without the config.

    :raises ExportError: it fails.
    """
    installed = None if force else task.up_to_date()
    if installed is not None:
        if not quiet:
            click.echo(f"{task.name}: up to date ({installed.precision})")
        return
    began = time.perf_counter()
    try:
        result = _with_progress(task)
    except OSError as error:  # no space, no rights
        reason = error.strerror or str(error)
        raise ExportError(f"{task.name} could not be exported to {error.filename or task.folder}: {reason}.") from None
    click.echo(_line(task, result, time.perf_counter() - began))


def _with_progress(task: ExportTask) -> Manifest:
    """Export with a bar that names the stage on a terminal's stderr, and goes away at the end."""
    # Bound to the real stderr: while a network is exported, sys.stdout and sys.stderr swallow what is printed.
    console = Console(file=sys.stderr)
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(task.name, total=len(task.stages), stage="")
        return task.export(lambda stage: progress.update(bar, completed=task.stages.index(stage), stage=stage))


def _line(task: ExportTask, result: Manifest, seconds: float) -> str:
    size = sum(state.size for state in result.files.values()) / 1e6
    return f"{task.name}: exported ({result.precision}, {size:.1f} MB, {seconds:.0f} s); {task.difference(result)}"
