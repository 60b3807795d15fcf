"""Tritons and proxies in processes of their own: `darkroom serve --only ...` on free ports, as on several machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import Server, free_port, started
from benchmarks.service import SERVE, START_SECONDS


@dataclass(frozen=True, kw_only=True)
class RunningTriton(Server):
    """A started Triton with its supervisor.

    :ivar url: of its metrics; it has no REST.
    :param grpc: host:port.
    """

    grpc: str

    def wait_ready(self, seconds: float = START_SECONDS, *, after: int = 0, words: str = "Triton is ready") -> None:
        """Wait until its supervisor has seen that all models work."""
        self.wait_for_log(words, after=after, timeout=seconds)


@dataclass(frozen=True, kw_only=True)
class RunningProxy(Server):
    """A started proxy with its supervisor."""

    def tritons(self) -> dict[str, dict[str, Any]]:
        """What `GET /status` says of each Triton, by its address."""
        answer = httpx.get(f"{self.url}/status", timeout=60, trust_env=False).raise_for_status().json()
        return {one["address"]: one for one in answer["tritons"]}


@contextlib.contextmanager
def running_triton(folder: Path, *, cores: str = "", **settings: object) -> Iterator[RunningTriton]:
    """Start a Triton, and stop it at the end; does not wait until it is ready.

    :param folder: for its state, logs and output; is made.
    :param cores: what taskset pins it to; empty: it is not pinned.
    :param settings: environment variables by their names in lower case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, metrics = free_port(), free_port()
    used = {
        "triton_grpc_port": port,
        "triton_metrics_port": metrics,
        "state_dir": folder / "state",
        "log_dir": folder / "logs",
    }
    command = [*_pinned(cores), *SERVE, "--only", "triton"]
    with started(command, folder, settings=used | settings) as process:
        url = f"http://127.0.0.1:{metrics}/metrics"
        yield RunningTriton(process=process, url=url, folder=folder, grpc=f"127.0.0.1:{port}")


@contextlib.contextmanager
def running_proxy(
    folder: Path, tritons: Sequence[RunningTriton], *, cores: str = "", **settings: object
) -> Iterator[RunningProxy]:
    """Start a proxy for these Tritons, and stop it at the end; see `running_triton`. It does not wait for them."""
    folder.mkdir(parents=True, exist_ok=True)
    used: Mapping[str, object] = {
        "host": "127.0.0.1",
        "port": free_port(),
        "triton_grpc": ",".join(one.grpc for one in tritons),
        "triton_metrics": ",".join(one.url for one in tritons),
        "state_dir": folder / "state",
        "log_dir": folder / "logs",
        **settings,
    }
    command = [*_pinned(cores), *SERVE, "--only", "proxy"]
    with started(command, folder, settings=used) as process:
        proxy = RunningProxy(process=process, url=f"http://127.0.0.1:{used['port']}", folder=folder)
        proxy.wait_for_log("the proxy is ready", timeout=START_SECONDS)
        yield proxy


def _pinned(cores: str) -> list[str]:
    return ["taskset", "--cpu-list", cores] if cores else []
