"""The queries of the dashboard and of the alerts, and a Prometheus server that answers them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import prometheus
from benchmarks.prometheus import Prometheus
from tests.service import ROOT

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


def running_prometheus(folder: Path, target: str, key: str | None = None) -> AbstractContextManager[Prometheus]:
    """`benchmarks.prometheus.running_prometheus`, where Prometheus is installed."""
    program("prometheus")
    return prometheus.running_prometheus(folder, target, key)
