"""The benchmark for a GPU: phases, comparison, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import machine
from benchmarks.context import CHECKPOINT, REPOSITORY
from benchmarks.errors import BenchmarkError
from benchmarks.gpu_sd15 import report
from benchmarks.gpu_sd15.__main__ import main as gpu_main
from benchmarks.gpu_sd15.networks import compare
from benchmarks.gpu_sd15.plan import COMPILED, EAGER, FULL, OURS, TINY, Work
from benchmarks.local import as_png
from benchmarks.results import described


def _measured(work: Work, name: str, *, seconds: float, grey: int, **more: Any) -> None:
    jobs = [{"seconds": seconds, "generated": seconds / 2, "encoded": 0.01} for _ in range(8)]
    if name == OURS:
        jobs = [{"seconds": seconds} for _ in range(8)]
    together = {"seconds": 8 * seconds, "jobs": jobs}
    work.write(name, {"quick": False, "alone": jobs[:2], "together": together, **more})
    work.picture(name).write_bytes(as_png(np.full((8, 8, 3), grey, np.uint8)))


def test_gpu_report(tmp_path: Path) -> None:
    work = Work(folder=tmp_path / "work")
    work.set_case(TINY)
    with pytest.raises(BenchmarkError, match="no results"):
        report.write(work, tmp_path)
    _measured(work, OURS, seconds=1.0, grey=100, provider="CPUExecutionProvider", triton="2", rows_per_execution=7.5)
    batch = [{"seconds": 4.0, "generated": 3.0, "encoded": 0.1}]
    _measured(work, EAGER, seconds=2.0, grey=101, compile_mode=None, batch=batch)
    json_file, page = report.write(work, tmp_path / "out")
    section = json.loads(json_file.read_text())["sections"][0]
    values = [finding["value"] for finding in section["findings"]]
    # latency, the same against the pipeline alone, images/s, the same against batches of 8, likeness
    assert values == pytest.approx([0.5, 1.0, 2.0, 0.5, 1.0])
    assert section["missing"] == f"{COMPILED} was not measured"
    assert "| darkroom | 8 | 8 | 1 |" in page.read_text()
    assert "python -m benchmarks.gpu_sd15" in page.read_text()


def test_gpu_work_folder_keeps_to_its_case(tmp_path: Path) -> None:
    work = Work(folder=tmp_path)
    with pytest.raises(BenchmarkError, match="is not prepared"):
        work.case()
    work.set_case(FULL)
    work.set_case(FULL)
    assert work.case() == FULL
    with pytest.raises(BenchmarkError, match="another case"):
        work.set_case(TINY)


def test_gpu_command_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    result = CliRunner().invoke(gpu_main, ["prepare", "--work", str(tmp_path)])
    assert isinstance(result.exception, BenchmarkError)
    assert "--tiny" in str(result.exception)
    assert not (tmp_path / "checkpoint").exists()


def test_networks_are_compared_with_diffusers(tmp_path: Path) -> None:
    """What is for a GPU in half precision, with the demo's networks on the CPU in fp32: one level of the decoder's 255
    is all that may differ."""
    work = Work(folder=tmp_path)
    work.set_case(TINY)
    work.checkpoint.symlink_to(CHECKPOINT)
    work.repository.symlink_to(REPOSITORY)
    said: list[str] = []
    found = compare(work, said.append)
    assert list(found) == ["sd15_text_encoder", "sd15_unet", "sd15_vae_decoder"]
    for name, differences in found.items():
        assert differences["onnxruntime"] <= (1 / 255 if name == "sd15_vae_decoder" else 1e-4), name
        assert differences["diffusers"] == 0
    assert len(said) == 3


def test_gpu_phases_go_on_where_they_stopped(tmp_path: Path) -> None:
    work = Work(folder=tmp_path)
    work.set_case(TINY)
    _measured(work, OURS, seconds=1.0, grey=100, provider=None, triton="2", rows_per_execution=2.0)
    result = CliRunner().invoke(gpu_main, ["serve-and-measure", "--work", str(tmp_path), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "measured already" in result.output
    assert "written: " in result.output


def test_a_machine_with_a_gpu_is_named_after_it() -> None:
    found = {"cpu": "Some CPU", "cores": "16", "gpu": "NVIDIA H100 80GB HBM3"}
    assert machine.slug(found) == "nvidia-h100-80gb-hbm3"
    assert described(found) == "NVIDIA H100 80GB HBM3, Some CPU, 16 cores"
