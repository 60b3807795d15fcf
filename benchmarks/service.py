"""The real service as the subject: `darkroom serve` on free ports, its counters and its memory."""

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
from collections.abc import Callable, Iterator
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


@dataclass(frozen=True, kw_only=True)
class Service:
    """A started service; `grpc` (host:port) and `metrics` (URL) are Triton's."""

    url: str
    grpc: str
    metrics: str
    pid: int

    def counts(self, model: str) -> Counts:
        """Rows inferred and executions of a model; canaries count as well."""
        text = httpx.get(self.metrics, trust_env=False).text
        values = [
            re.search(rf'^{name}{{model="{model}",.*}} ([\d.e+]+)$', text, re.MULTILINE)
            for name in ("nv_inference_count", "nv_inference_exec_count")
        ]
        rows, executions = (int(float(value[1])) if value else 0 for value in values)
        return Counts(rows=rows, executions=executions)

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


def _tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _role(command: str) -> str:
    model = _MODEL_FOLDER.search(command)
    if model:
        return model[1]
    return next((name for name in ("tritonserver", "proxy") if name in command), "other")


@contextlib.contextmanager
def running_service() -> Iterator[Service]:
    """Start the service with its default settings, wait until it is healthy, and stop it at the end.

    :raises BenchmarkError: it does not come up; shows what it said last.
    """
    port, grpc, metrics = _free_ports(3)
    settings = {
        "HOST": "127.0.0.1",
        "PORT": port,
        "TRITON_GRPC_PORT": grpc,
        "TRITON_METRICS_PORT": metrics,
        "MODEL_REPOSITORY": ROOT / "model_repository",
        "UPSCALE_TILE": 400,
        "UPSCALE_TILE_PAD": 10,
        "TASK_TIMEOUT": 3600,  # a slow machine is slow, not broken
        "CANARY_INTERVAL": 3600,  # a health check in the middle of a measurement would be measured
    }
    with tempfile.TemporaryDirectory(prefix="darkroom-benchmarks-") as folder:
        settings |= {"STATE_DIR": f"{folder}/state", "LOG_DIR": f"{folder}/logs"}
        output = Path(folder, "output.log")
        process = _start({name: str(value) for name, value in settings.items()}, output)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_healthy(url, process, output)
            yield Service(
                url=url, grpc=f"127.0.0.1:{grpc}", metrics=f"http://127.0.0.1:{metrics}/metrics", pid=process.pid
            )
        finally:
            _stop(process)


def _start(settings: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    command = Path(sys.executable).with_name("darkroom")
    if not command.exists():
        raise BenchmarkError(f"the command `darkroom` is not installed beside {command.with_name('python').name}.")
    with output.open("wb") as log:
        # A session of its own: Ctrl-C reaches this program alone, which then stops the service in order.
        return subprocess.Popen(
            [command, "serve"],
            env=os.environ | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )


def _wait_healthy(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    last = " / ".join(output.read_text(errors="replace").splitlines()[-3:])
    raise BenchmarkError(f"the service did not come up: {last}")


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


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on right now; all held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
