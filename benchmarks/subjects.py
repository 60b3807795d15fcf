"""What is measured, in processes of its own: the service with its default settings, and the baseline."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT
from benchmarks.processes import Server, free_port, started
from benchmarks.service import RunningService, running_service

_START_SECONDS = 180.0


@contextlib.contextmanager
def measured_service(
    *,
    repository: Path = ROOT / "model_repository",
    logs: Path | None = None,
    start_seconds: float = _START_SECONDS,
    engine: str = "",
) -> Iterator[RunningService]:
    """Start the service with its default settings, wait until it is healthy, and stop it at the end.

    :param logs: a folder for what it logs; None = nothing is kept.
    :param engine: ENGINE; "" for the default.
    :raises BenchmarkError: it does not become healthy; shows its last output.
    """
    with (
        _scratch() as state,
        _kept(logs) as folder,
        running_service(
            folder,
            start_seconds=start_seconds,
            state_dir=state,
            log_dir=folder,
            model_repository=repository.absolute(),
            upscale_tile=400,
            upscale_tile_pad=10,
            task_timeout=3600,  # a slow machine is slow, not broken
            canary_interval=3600,  # a health check in the middle of a measurement would be measured
            engine=engine,
        ) as service,
    ):
        yield service


@contextlib.contextmanager
def running_baseline(
    checkpoint: Path,
    *options: str,
    module: str = "benchmarks.baseline",
    logs: Path | None = None,
    start_seconds: float = _START_SECONDS,
) -> Iterator[Server]:
    """Start the baseline over a checkpoint, wait until it has loaded it, and stop it at the end.

    :param options: further ones of its command.
    :param module: of the command, `python -m MODULE`.
    :param logs: a folder for what it logs; None = nothing is kept.
    :raises BenchmarkError: there is no such checkpoint, or it does not come up.
    """
    if not checkpoint.is_dir():
        raise BenchmarkError(f"{checkpoint} is not there: the baseline needs a checkpoint in the diffusers layout.")
    port = free_port()
    where = ["--checkpoint", str(checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", module, *where, *options]
    with _kept(logs) as folder, started(command, folder, settings={}) as process:
        server = Server(process=process, url=f"http://127.0.0.1:{port}", folder=folder)
        server.wait_healthy(start_seconds)
        yield server


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="darkroom-benchmarks-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _kept(logs: Path | None) -> Iterator[Path]:
    """A folder for logs: the given one, or one that is removed at the end."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_scratch()) if logs is None else logs.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
