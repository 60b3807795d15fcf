"""The progress of a run on the command line. All of it goes to standard error."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from .models import Progress

MAX_FAILURES_REPEATED = 20

State = Literal["done", "skipped", "failed"]
_NOT_DONE: tuple[State, ...] = ("skipped", "failed")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one output, or of `count` that share their fate; 0 for what comes beside the outputs.

    `detail` is how it was made, or the reason of a failure.
    """

    source: str
    output: str
    state: State
    detail: str = ""
    count: int = 1


class OnProgress(Protocol):
    """Takes the progress of one request, and where it changes the title of its bar."""

    def __call__(self, progress: Progress, /, title: str | None = None) -> None: ...


class Reporter(Protocol):
    """Follows a run."""

    wants_progress: bool

    def bar(self, title: str) -> AbstractContextManager[OnProgress]:
        """A bar for one request while it is in work, to be called with its progress."""
        ...

    def report(self, outcome: Outcome) -> None:
        """Report the outcome of one output."""
        ...


def _ignore(progress: Progress, /, title: str | None = None) -> None:
    """Show nothing."""


class LineReporter:
    """For logs and pipes: one line for each output, and no control codes."""

    wants_progress = False

    @contextmanager
    def bar(self, title: str) -> Iterator[OnProgress]:
        yield _ignore

    def report(self, outcome: Outcome) -> None:
        click.echo(outcome_line(outcome), err=True)


class BarReporter:
    """For a terminal: a bar for each request, one for the whole run above them, lines for finished outputs."""

    wants_progress = True

    def __init__(self, bars: Bars, total: int, noun: str) -> None:
        self._bars = bars
        self._all = bars.add_task(f"all {noun}", total=total) if total > 1 else None

    @contextmanager
    def bar(self, title: str) -> Iterator[OnProgress]:
        # No total yet: the bar pulses while the request is sent and waits for its turn.
        task = self._bars.add_task(title, total=None)

        def update(progress: Progress, /, title: str | None = None) -> None:
            self._bars.update(task, completed=progress.done, total=progress.total, description=title)

        try:
            yield update
        finally:
            self._bars.remove_task(task)

    def report(self, outcome: Outcome) -> None:
        style = {"done": "green", "skipped": "dim", "failed": "red"}[outcome.state]
        line = outcome_line(outcome)
        self._bars.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        if self._all is not None:
            self._bars.advance(self._all, outcome.count)


@contextmanager
def reporter(total: int, noun: str) -> Iterator[Reporter]:
    """The reporter that suits standard error, for a run with `total` outputs, which are called `noun`."""
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
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield BarReporter(bars, total, noun)


def outcome_line(outcome: Outcome) -> str:
    """One line on one output."""
    if outcome.state == "done":
        return f"{outcome.source} -> {outcome.output} ({outcome.detail})"
    if outcome.state == "skipped":
        return f"{outcome.source}: skipped, {outcome.output} is there (--overwrite makes it again)"
    return f"{outcome.source}: failed: {outcome.detail}"


def conclude(outcomes: Sequence[Outcome], planned: int, *, stopped: int, resume: str) -> int:
    """Tell how a run ended.

    :param planned: how many outputs there should be.
    :param stopped: the exit code of what stopped the run; 0 if it came to its end.
    :param resume: what to do to go on.
    :returns: the exit code of the run.
    """
    if stopped:
        click.echo(f"Stopped: {summary(outcomes, planned)}", err=True)
        click.echo(resume, err=True)
        return stopped
    if planned > 1:
        click.echo(summary(outcomes, planned), err=True)
    told = sum(outcome.count for outcome in outcomes)
    if told < planned:
        click.echo(f"The rest would fail in the same way and was not tried. {resume}", err=True)
    return 0 if told == planned and all(outcome.state != "failed" for outcome in outcomes) else 1


def summary(outcomes: Sequence[Outcome], planned: int) -> str:
    """The end of a run of several outputs: how many of each kind, and the failures once more."""
    count: Counter[State] = Counter()
    for outcome in outcomes:
        count[outcome.state] += outcome.count
    parts = [f"{count['done']} done"]
    parts += [f"{count[state]} {state}" for state in _NOT_DONE if count[state]]
    if planned > count.total():
        parts.append(f"{planned - count.total()} not finished")
    failures = [outcome_line(outcome) for outcome in outcomes if outcome.state == "failed"]
    lines = [", ".join(parts), *failures[:MAX_FAILURES_REPEATED]]
    if len(failures) > MAX_FAILURES_REPEATED:
        lines.append(f"... and {len(failures) - MAX_FAILURES_REPEATED} more failures above")
    return "\n  ".join(lines)


def shown(text: str | os.PathLike[str] | None, instead: str = "") -> str:
    """A path or a prompt as text for a terminal: both may hold bytes that are not text, and control codes."""
    if text is None:
        return instead
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in os.fspath(text))
