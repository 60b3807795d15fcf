"""The whole service as a test subject: `darkroom serve` on free ports, with its processes in reach."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import free_port

ROOT = Path(__file__).resolve().parents[1]


def link_models(folder: Path, *models: str, source: Path = ROOT / "model_repository") -> Path:
    """Make `folder` a repository of some models of another one, so that a start takes less time; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        (folder / model).symlink_to(source / model)
    return folder


@dataclass
class RunningService:
    """A started service. `grpc` and `metrics` are Triton's."""

    process: subprocess.Popen[bytes]
    url: str
    grpc: str
    metrics: str
    folder: Path

    def log(self) -> str:
        """Everything that it wrote so far."""
        return (self.folder / "output.log").read_text(errors="replace")

    def health(self) -> httpx.Response | None:
        """`GET /health`, or None while nothing listens."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5)
        except httpx.TransportError:
            return None

    def wait_healthy(self, timeout: float) -> float:
        """Wait for a 200 from /health; returns the seconds it took."""
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            if self.process.poll() is not None:
                pytest.fail(f"the service ended with code {self.process.returncode}:\n{self.log()[-3000:]}")
            answer = self.health()
            if answer is not None and answer.status_code == 200:
                return time.monotonic() - started
            time.sleep(0.1)
        pytest.fail(f"not healthy after {timeout} s:\n{self.log()[-3000:]}")

    def wait_for_log(self, words: str, *, after: int = 0, timeout: float) -> float:
        """Wait until the log says `words` behind its first `after` characters; returns the seconds it took."""
        started = time.monotonic()
        while words not in self.log()[after:]:
            assert time.monotonic() - started < timeout, f"no {words!r} in {timeout} s:\n{self.log()[-3000:]}"
            time.sleep(0.05)
        return time.monotonic() - started

    @contextlib.contextmanager
    def before_triton_is_up(self) -> Iterator[None]:
        """Triton stands still, with the proxy there already; afterwards it goes on."""
        while not (triton := self.find("bin/tritonserver")):
            assert self.process.poll() is None
            time.sleep(0.02)
        triton[0].suspend()
        try:
            deadline = time.monotonic() + 120
            while self.health() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield
        finally:
            triton[0].resume()

    def tree(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def memory(self, *, files: bool = True) -> int:
        """Bytes of memory of the whole stack, shared pages counted once (PSS).

        :param files: with the pages of files, whose share depends on who else has them open.
        """
        total = 0
        for process in self.tree():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                shares = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                named = "Pss" if files else "Pss_(?:Anon|Shmem)"
                total += sum(int(size) << 10 for size in re.findall(rf"^{named}: +(\d+) kB$", shares, re.M))
        assert total
        return total

    def find(self, words: str) -> list[psutil.Process]:
        """The processes of the tree whose command line contains `words`."""
        found = []
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def counter(self, name: str, model: str) -> float:
        """A counter or gauge of Triton's metrics for one model."""
        for line in httpx.get(self.metrics, timeout=60).text.splitlines():
            if line.startswith(f"{name}{{") and f'model="{model}"' in line:
                return float(line.rsplit(" ", 1)[1])
        pytest.fail(f"no metric {name} for {model}")


@contextlib.contextmanager
def running_service(folder: Path, *, wait: bool = True, **settings: object) -> Iterator[RunningService]:
    """Start `darkroom serve` with `settings` (names of environment variables in lower case); stop it at the end."""
    port, grpc, metrics = free_port(), free_port(), free_port()
    defaults = {
        "host": "127.0.0.1",
        "port": port,
        "triton_grpc_port": grpc,
        "triton_metrics_port": metrics,
        "state_dir": folder / "state",
        "log_dir": folder / "logs",
    }
    env = os.environ | {name.upper(): str(value) for name, value in (defaults | settings).items()}
    command = [str(Path(sys.executable).with_name("darkroom")), "serve"]
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    service = RunningService(
        process, f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc}", f"http://127.0.0.1:{metrics}/metrics", folder
    )
    try:
        if wait:
            service.wait_healthy(300)
        yield service
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)  # the second one does not wait for work
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class RunningProxy:
    """The proxy alone, in front of a Triton that is not there: enough for what concerns HTTP."""

    process: psutil.Process
    url: str
    folder: Path

    def log(self) -> str:
        """Everything that it wrote so far."""
        return (self.folder / "output.log").read_text(errors="replace")

    def wait_for_log(self, words: str) -> None:
        """Wait until the log says this."""
        deadline = time.monotonic() + 60
        while words not in self.log():
            assert time.monotonic() < deadline, f"no {words!r}:\n{self.log()[-3000:]}"
            time.sleep(0.05)


@contextlib.contextmanager
def running_proxy(folder: Path, **settings: object) -> Iterator[RunningProxy]:
    """Start `python -m proxy` with `settings`, as in `running_service`; stop it at the end."""
    port = free_port()
    defaults = {
        "host": "127.0.0.1",
        "port": port,
        "triton_grpc_port": free_port(),
        "triton_metrics_port": free_port(),
        "state_dir": folder / "state",
        "log_dir": folder / "logs",
    }
    env = os.environ | {name.upper(): str(value) for name, value in (defaults | settings).items()}
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy"], env=env, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
    proxy = RunningProxy(psutil.Process(process.pid), f"http://127.0.0.1:{port}", folder)
    try:
        proxy.wait_for_log("Uvicorn running")
        yield proxy
    finally:
        _stop(process)
