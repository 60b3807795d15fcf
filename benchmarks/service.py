"""Subjects in processes of their own: `darkroom serve` on free ports, its counters and its memory; the baseline."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import tritonclient.grpc as grpcclient

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT

Number = TypeVar("Number", int, float)

_START_SECONDS = 180.0
_STOP_SECONDS = 40.0
_LAST_LINES = 5
# Where the package is on the path but not installed there is no program `darkroom`.
_SERVE = "from supervisor.cli import serve; serve(prog_name='darkroom serve')"
Sample = tuple[dict[str, str], float]
"""Labels and value."""

_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_MODEL_FOLDER = re.compile(r"/model_repository/([^/ ]+)/")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What Triton counted for one model since it started. Sharing batches means more rows than executions."""

    rows: int
    executions: int

    def since(self, before: Counts) -> Counts:
        """What was added."""
        return Counts(rows=self.rows - before.rows, executions=self.executions - before.executions)

    @property
    def rows_per_execution(self) -> float | None:
        """The mean batch; None when nothing ran."""
        return self.rows / self.executions if self.executions else None


DURATIONS = ("request", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Seconds that Triton counted for one model since it started, by what they were spent on (`DURATIONS`)."""

    executions: int
    seconds: Mapping[str, float]

    def since(self, before: Durations) -> Durations:
        """What was added."""
        added = {name: value - before.seconds[name] for name, value in self.seconds.items()}
        return Durations(executions=self.executions - before.executions, seconds=added)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A started HTTP server: where it answers, and its process."""

    url: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Service(Server):
    """A started Darkroom; `grpc` (host:port) and `metrics` (URL) are Triton's."""

    grpc: str
    metrics: str

    def counts(self, model: str) -> Counts:
        """Rows inferred and executions of a model; canaries count as well."""
        samples = self._samples(model)
        return Counts(rows=int(_value(samples, "count")), executions=int(_value(samples, "exec_count")))

    def durations(self, model: str) -> Durations:
        """What a model's requests spent their time on. One request an execution, where they come one by one."""
        samples = self._samples(model)
        spent = {name: _value(samples, f"{name}_duration_us") / 1e6 for name in DURATIONS}
        return Durations(executions=int(_value(samples, "exec_count")), seconds=spent)

    def provider(self, model: str) -> str | None:
        """The execution provider that a network runs on; None where the backend does not publish it."""
        labels, _ = self._samples(model).get("darkroom_network_provider", ({}, 0.0))
        return labels.get("provider")

    def _samples(self, model: str) -> dict[str, Sample]:
        return parse_metrics(httpx.get(self.metrics, trust_env=False).text, model)

    def version(self) -> str:
        """Triton's own version."""
        with grpcclient.InferenceServerClient(self.grpc) as client:
            return str(client.get_server_metadata().version)

    def memory(self) -> dict[str, int]:
        """Bytes of every process of the service, by what it is; pages that several share are shared out (PSS)."""
        return self._by_role(lambda process: int(process.memory_full_info().pss))

    def cpu(self) -> dict[str, float]:
        """CPU seconds of every process of the service since it started, by what it is."""
        return self._by_role(lambda process: process.cpu_times().user + process.cpu_times().system)

    def _by_role(self, read: Callable[[psutil.Process], Number]) -> dict[str, Number]:
        found: dict[str, Number] = {}
        for process in _tree(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                name = "supervisor" if process.pid == self.pid else _role(" ".join(process.cmdline()))
                found[name] = found.get(name, 0) + read(process)
        return found


def parse_metrics(text: str, model: str) -> dict[str, Sample]:
    """What Prometheus' text format says of one model: labels and value by the metric's name.

    Of several samples of one name it is the last whose value is not 0.
    """
    samples = [(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(text)]
    return {name: (labels, value) for name, labels, value in samples if value and labels.get("model") == model}


def _value(samples: Mapping[str, Sample], name: str) -> float:
    """One of Triton's counters of inference; 0 for one that never counted."""
    return samples.get(f"nv_inference_{name}", ({}, 0.0))[1]


def _tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _role(command: str) -> str:
    model = _MODEL_FOLDER.search(command)
    if model:
        return model[1]
    return next((name for name in ("tritonserver", "proxy") if name in command), "other")


@contextlib.contextmanager
def running_service(
    *, repository: Path = ROOT / "model_repository", logs: Path | None = None, start_seconds: float = _START_SECONDS
) -> Iterator[Service]:
    """Start the service with its default settings, wait until it is healthy, and stop it at the end.

    :param logs: a folder for what it logs; None = nothing is kept.
    :raises BenchmarkError: it does not come up; shows what it said last.
    """
    program = Path(sys.executable).with_name("darkroom")
    command = [str(program), "serve"] if program.exists() else [sys.executable, "-c", _SERVE]
    port, grpc, metrics = free_ports(3)
    settings: dict[str, object] = {
        "HOST": "127.0.0.1",
        "PORT": port,
        "TRITON_GRPC_PORT": grpc,
        "TRITON_METRICS_PORT": metrics,
        "MODEL_REPOSITORY": repository.absolute(),
        "UPSCALE_TILE": 400,
        "UPSCALE_TILE_PAD": 10,
        "TASK_TIMEOUT": 3600,  # a slow machine is slow, not broken
        "CANARY_INTERVAL": 3600,  # a health check in the middle of a measurement would be measured
    }
    with _scratch() as state, _kept(logs) as log:
        settings |= {"STATE_DIR": state, "LOG_DIR": log.parent}
        url = f"http://127.0.0.1:{port}"
        with running(command, url, settings=settings, log=log, start_seconds=start_seconds) as pid:
            yield Service(url=url, grpc=f"127.0.0.1:{grpc}", metrics=f"http://127.0.0.1:{metrics}/metrics", pid=pid)


@contextlib.contextmanager
def running_baseline(
    checkpoint: Path, *options: str, logs: Path | None = None, start_seconds: float = _START_SECONDS
) -> Iterator[Server]:
    """Start the baseline over a checkpoint, wait until it has loaded it, and stop it at the end.

    :param options: further ones of `python -m benchmarks.baseline`.
    :param logs: a folder for what it logs; None = nothing is kept.
    :raises BenchmarkError: there is no such checkpoint, or it does not come up.
    """
    if not checkpoint.is_dir():
        raise BenchmarkError(f"{checkpoint} is not there: the baseline needs a checkpoint in the diffusers layout.")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    where = ["--checkpoint", str(checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "benchmarks.baseline", *where, *options]
    with _kept(logs) as log, running(command, url, settings={}, log=log, start_seconds=start_seconds) as pid:
        yield Server(url=url, pid=pid)


@contextlib.contextmanager
def running(
    command: Sequence[str], url: str, *, settings: Mapping[str, object], log: Path, start_seconds: float
) -> Iterator[int]:
    """Start a server, wait until its `/health` says 200, give its process id, and stop it at the end.

    :param settings: environment variables on top of this program's own.
    :param log: the file for its output.
    :raises BenchmarkError: it does not come up; shows what it said last.
    """
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this program alone, which then stops the server in order.
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
    try:
        _wait_healthy(url, process, log, start_seconds)
        yield process.pid
    finally:
        _stop(process)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="darkroom-benchmarks-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _kept(logs: Path | None) -> Iterator[Path]:
    """The log file of a server, in a folder that stays or in one that does not."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_scratch()) if logs is None else logs.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        yield folder / "output.log"


def _wait_healthy(url: str, process: subprocess.Popen[bytes], output: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    last = " / ".join(output.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    raise BenchmarkError(f"{url} did not come up: {last}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)  # the second one does not wait for work
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on right now; all held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
