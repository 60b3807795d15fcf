"""A Prometheus server of Debian's package that reads one service, every second."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT
from benchmarks.processes import free_port

CONFIGS = ROOT / "docker" / "prometheus"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Series:
    """One line of a graph: labels, and times with values."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each element of an answer, without those that are no number."""
        found = [(one["metric"], float(one["value"][1])) for one in self._result("query", query=query)]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    def over(self, query: str, begun: float, ended: float, step: float) -> list[Series]:
        """The values of a query between two times, as a graph shows them, without those that are no number."""
        result = self._result("query_range", query=query, start=begun, end=ended, step=step)
        lines = [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in result]
        return [Series(labels, [(at, value) for at, value in line if math.isfinite(value)]) for labels, line in lines]

    def _result(self, kind: str, **params: str | float) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/{kind}", params=params, trust_env=False).json()
        if answer["status"] != "success":
            raise BenchmarkError(f"Prometheus does not answer {params['query']!r}: {answer.get('error')}")
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """The rules with their health."""
        groups = httpx.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def running_prometheus(folder: Path, target: str, key: str | None = None) -> Iterator[Prometheus]:
    """Start Prometheus with the config and the alerts of docker/, every second, on one service; stop it at the end.

    :param target: host:port of the service.
    :param key: of an admin.
    :raises BenchmarkError: it is not installed, or does not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise BenchmarkError("Prometheus is not installed: apt install prometheus")
    config = yaml.safe_load((CONFIGS / "one-server.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    if key is not None:
        (folder / "darkroom.key").write_text(key)
        config["scrape_configs"][0]["authorization"] = {"credentials_file": str(folder / "darkroom.key")}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(CONFIGS / "alerts.yml", folder)
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    with (folder / "log").open("wb") as log:
        command = [program, *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _wait(server, process, folder)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _wait(server: Prometheus, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/-/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise BenchmarkError(f"Prometheus did not start:\n{(folder / 'log').read_text()}")
