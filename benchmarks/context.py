"""What every benchmark is given: how thorough to be, where to show progress, and the running servers."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.progress import Progress, TaskID

from benchmarks.machine import ROOT
from benchmarks.processes import Server
from benchmarks.service import RunningService
from benchmarks.subjects import measured_service, running_baseline

REPOSITORY = ROOT / "model_repository"
CHECKPOINT = ROOT / "checkpoints" / "demo-sd15"


class Context:
    """Used as a context manager: a server starts when the first benchmark asks for it, and stops at the end.

    :param quick: so little of everything that the whole command takes some minutes.
    :param repository: what the service serves and the loops in this process run.
    :param checkpoint: what the baseline runs: the one from which the repository's text-to-image networks were made.
    """

    def __init__(
        self, *, quick: bool, progress: Progress, repository: Path = REPOSITORY, checkpoint: Path = CHECKPOINT
    ) -> None:
        self.quick = quick
        self.repository = repository
        self.checkpoint = checkpoint
        self._progress = progress
        self._task: TaskID | None = None
        self._stack = contextlib.ExitStack()
        self._service: RunningService | None = None
        self._baseline: Server | None = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop_servers()

    @property
    def service(self) -> RunningService:
        """The running service, with default settings and warm models."""
        if self._service is None:
            self.stage("starting the service")
            self._service = self._stack.enter_context(measured_service(repository=self.repository))
        return self._service

    @property
    def baseline(self) -> Server:
        """The running baseline, see `benchmarks.baseline`."""
        if self._baseline is None:
            self.stage("starting the baseline")
            self._baseline = self._stack.enter_context(running_baseline(self.checkpoint))
        return self._baseline

    def stop_servers(self) -> None:
        """Stop what runs; the next one that asks gets a fresh one."""
        self._stack.close()
        self._service = self._baseline = None

    def choose(self, full: int, quick: int) -> int:
        """A number of rounds or requests, or a size."""
        return quick if self.quick else full

    def stage(self, text: str, total: int | None = None) -> None:
        """Show what is being done now, and how many steps it has."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(text, total=total)

    def step(self, done: int) -> None:
        """Show how many steps of the stage are done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)
