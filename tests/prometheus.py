"""A Prometheus server of Debian's package, and the queries of the dashboard and of the alerts."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.processes import free_port
from tests.service import ROOT
from tests.waiting import until

GRAFANA, PROMETHEUS = ROOT / "docker" / "grafana", ROOT / "docker" / "prometheus"
CONFIGS = ("one-server.yml", "several-servers.yml")
_METRIC = re.compile(r"\b(?:darkroom|nv)_\w+|\bup\b")


def program(name: str) -> str:
    """The path of prometheus or promtool."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that have queries."""
    found = json.loads((GRAFANA / "darkroom.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """The queries of the dashboard, with values in place of Grafana's variables."""
    texts = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in texts]


def alerts() -> list[dict[str, Any]]:
    """The rules of the alerts."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_in(query: str) -> set[str]:
    """The names of the metrics that a query reads."""
    return set(_METRIC.findall(query))


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each element of an answer, without those that are no number."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        found = [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        """The rules with their health."""
        groups = httpx.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def running_prometheus(folder: Path, target: str, key: str | None = None) -> Iterator[Prometheus]:
    """Start Prometheus with the config and the alerts of docker/, every second, on one service; stop it at the end.

    :param target: host:port of the service.
    :param key: of an admin.
    """
    config = yaml.safe_load((PROMETHEUS / CONFIGS[0]).read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    if key is not None:
        (folder / "darkroom.key").write_text(key)
        config["scrape_configs"][0]["authorization"] = {"credentials_file": str(folder / "darkroom.key")}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    with (folder / "log").open("wb") as log:
        command = [program("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(lambda: _is_ready(server, process, folder))
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(server: Prometheus, process: subprocess.Popen[bytes], folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.url}/-/ready").status_code == 200
    return False
