"""What the person at the command line sees of a run, all of it on standard error."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from .models import Progress
from .plan import Job

MAX_FAILURES_REPEATED = 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one job; `detail` is the model and time, or the reason of a failure."""

    job: Job
    state: Literal["done", "skipped", "failed"]
    detail: str = ""


class Reporter(Protocol):
    """Follows a run."""

    wants_progress: bool

    def start(self, job: Job) -> None: ...

    def progress(self, job: Job, progress: Progress) -> None: ...

    def finish(self, outcome: Outcome) -> None: ...


class LineReporter:
    """For logs and pipes: one line for each file, and no control codes."""

    wants_progress = False

    def start(self, job: Job) -> None:
        pass

    def progress(self, job: Job, progress: Progress) -> None:
        pass

    def finish(self, outcome: Outcome) -> None:
        click.echo(outcome_line(outcome), err=True)


class BarReporter:
    """For a terminal: a bar for each picture in work, one for the whole run above them, lines for finished ones."""

    wants_progress = True

    def __init__(self, bars: Bars, total: int) -> None:
        self._bars = bars
        self._tasks: dict[Job, TaskID] = {}
        self._all = bars.add_task("all files", total=total) if total > 1 else None

    def start(self, job: Job) -> None:
        # No total yet: the bar pulses while the picture is sent and waits for its turn.
        self._tasks[job] = self._bars.add_task(shown(job.source, "stdin"), total=None)

    def progress(self, job: Job, progress: Progress) -> None:
        self._bars.update(self._tasks[job], completed=progress.done, total=progress.total)

    def finish(self, outcome: Outcome) -> None:
        task = self._tasks.pop(outcome.job, None)
        if task is not None:
            self._bars.remove_task(task)
        style = {"done": "green", "skipped": "dim", "failed": "red"}[outcome.state]
        line = outcome_line(outcome)
        self._bars.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        if self._all is not None:
            self._bars.advance(self._all)


@contextmanager
def reporter(total: int) -> Iterator[Reporter]:
    """The reporter that suits standard error, for a run of `total` files."""
    console = Console(stderr=True)
    # rich takes FORCE_COLOR for a terminal; a file that collects the log is none, whatever the variable says.
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield LineReporter()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield BarReporter(bars, total)


def outcome_line(outcome: Outcome) -> str:
    """One line on one file."""
    source, output = shown(outcome.job.source, "stdin"), shown(outcome.job.output, "stdout")
    if outcome.state == "done":
        return f"{source} -> {output} ({outcome.detail})"
    if outcome.state == "skipped":
        return f"{source}: skipped, {output} is there (--overwrite makes it again)"
    return f"{source}: failed: {outcome.detail}"


def summary(outcomes: Sequence[Outcome], planned: int) -> str:
    """The end of a run of several files: how many of each kind, and the failures once more."""
    count = Counter(outcome.state for outcome in outcomes)
    parts = [f"{count['done']} done"]
    parts += [f"{count[state]} {state}" for state in ("skipped", "failed") if count[state]]
    if planned > len(outcomes):
        parts.append(f"{planned - len(outcomes)} not finished")
    failures = [outcome_line(outcome) for outcome in outcomes if outcome.state == "failed"]
    lines = [", ".join(parts), *failures[:MAX_FAILURES_REPEATED]]
    if len(failures) > MAX_FAILURES_REPEATED:
        lines.append(f"... and {len(failures) - MAX_FAILURES_REPEATED} more failures above")
    return "\n  ".join(lines)


def shown(path: os.PathLike[str] | None, instead: str) -> str:
    """A path as text for a terminal: file names may hold bytes that are not text, and control codes."""
    if path is None:
        return instead
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in os.fspath(path))
