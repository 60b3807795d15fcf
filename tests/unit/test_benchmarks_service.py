"""Servers that benchmarks and tests start, and what Triton counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.metrics import Counts, counter, counts
from benchmarks.processes import Server, started


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no weights')"]
    with started(command, tmp_path, settings={}) as process:
        server = Server(process=process, url="http://127.0.0.1:9", folder=tmp_path)
        with pytest.raises(BenchmarkError, match="ended with code 1:\nno weights"):
            server.wait_healthy(30)
    assert "no weights" in server.log()


METRICS = """\
# TYPE nv_inference_count counter
nv_inference_count{model="sd15_unet",version="1"} 336
nv_inference_count{model="sd15_unet_canny",version="1"} 9
nv_inference_exec_count{model="sd15_unet",version="1"} 4.2e+01
nv_cpu_utilization 0.5
"""


def test_metrics_of_one_model() -> None:
    assert counts(METRICS, "sd15_unet") == Counts(rows=336, executions=42)
    assert counter(METRICS, "nv_inference_count", "sd15_unet_canny") == 9
    with pytest.raises(BenchmarkError, match="no nv_inference_count of sd15"):
        counter(METRICS, "nv_inference_count", "sd15")
