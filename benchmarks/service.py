"""The whole service in a process of its own: `darkroom serve` on free ports. Benchmarks and tests both start it so."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import tritonclient.grpc as grpcclient

from benchmarks.machine import ROOT
from benchmarks.metrics import Counts, Durations, counter, counts, durations
from benchmarks.processes import Server, free_port, started
from proxy.network_metrics import providers_of

START_SECONDS = 300.0
_PROGRAM = Path(sys.executable).with_name("darkroom")
# Where the package is on the path but not installed there is no program `darkroom`.
_SCRIPT = "from supervisor.cli import serve; serve(prog_name='darkroom serve')"
SERVE = (str(_PROGRAM), "serve") if _PROGRAM.exists() else (sys.executable, "-c", _SCRIPT)
"""The command that starts the service."""


@dataclass(frozen=True, kw_only=True)
class RunningService(Server):
    """A started Darkroom.

    :param grpc: address of Triton, as host:port.
    :param metrics: URL of Triton's metrics.
    """

    grpc: str
    metrics: str

    def counter(self, name: str, model: str) -> float:
        """A counter or gauge of Triton's metrics for one model."""
        return counter(self._metrics_text(), name, model)

    def counts(self, model: str) -> Counts:
        """Rows inferred and executions of a model."""
        return counts(self._metrics_text(), model)

    def durations(self, model: str) -> Durations:
        """What the requests to a model spent their time on."""
        return durations(self._metrics_text(), model)

    def provider(self, model: str) -> str | None:
        """The execution provider that a network runs on; None where the backend does not publish it."""
        return providers_of(self._metrics_text()).get(model)

    def version(self) -> str:
        """Triton's own version."""
        with grpcclient.InferenceServerClient(self.grpc) as client:
            return str(client.get_server_metadata().version)

    def _metrics_text(self) -> str:
        return httpx.get(self.metrics, timeout=60, trust_env=False).text


def link_models(folder: Path, *models: str, source: Path = ROOT / "model_repository") -> Path:
    """Make `folder` a repository of some models of another one, so that a start takes less time; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        (folder / model).symlink_to(source / model)
    return folder


def server_settings(folder: Path) -> dict[str, object]:
    """Settings for free ports of 127.0.0.1, with state and logs in `folder`."""
    return {
        "host": "127.0.0.1",
        "port": free_port(),
        "triton_grpc_port": free_port(),
        "triton_metrics_port": free_port(),
        "state_dir": folder / "state",
        "log_dir": folder / "logs",
    }


@contextlib.contextmanager
def running_service(
    folder: Path, *, wait: bool = True, start_seconds: float = START_SECONDS, **settings: object
) -> Iterator[RunningService]:
    """Start `darkroom serve` and stop it at the end.

    :param folder: for its state, logs and output.
    :param wait: until it is healthy, for at most `start_seconds`.
    :param settings: environment variables by their names in lower case.
    :raises BenchmarkError: it does not become healthy; shows its last output.
    """
    used = server_settings(folder) | settings
    with started(SERVE, folder, settings=used) as process:
        service = RunningService(
            process=process,
            url=f"http://127.0.0.1:{used['port']}",
            grpc=f"127.0.0.1:{used['triton_grpc_port']}",
            metrics=f"http://127.0.0.1:{used['triton_metrics_port']}/metrics",
            folder=folder,
        )
        if wait:
            service.wait_healthy(start_seconds)
        yield service
