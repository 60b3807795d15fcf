"""engine.json: which engines are up to date, usable or obsolete. Nothing here needs TensorRT or a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from darkroom.pipelines.sd15 import networks as sd15
from exporters.tensorrt import engines
from exporters.tensorrt.plan import GIB, make_plan
from tests.engines import A100, HERE, TRT, install, write_onnx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version folder with an engine for HERE."""
    install(sd15.VAE_DECODER, tmp_path)
    return tmp_path / sd15.VAE_DECODER.name / "1"


def plan_of(folder: Path, **options: object) -> object:
    given = {"precision": "fp16", "max_batch": 8, **options}
    return make_plan(sd15.VAE_DECODER, folder / "model.onnx", **given)  # type: ignore[arg-type]


def test_engine_is_up_to_date(folder: Path) -> None:
    found = engines.up_to_date(folder, plan_of(folder), HERE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.file, found.seconds, found.max_batch) == ("model_fp16_sm90_trt10.13.plan", 61.2, 8)
    raw = json.loads((folder / "engine.json").read_text())["engines"]
    assert raw[0]["facts"]["profiles"][0]["shapes"]["latents"] == [[1, 4, 8, 8], [1, 4, 64, 64], [8, 4, 64, 64]]
    assert raw[0]["target"] == {"gpu": {"name": "NVIDIA H100", "capability": "9.0"}, "tensorrt": TRT}


@pytest.mark.parametrize("change", ["gpu", "tensorrt", "patch", "onnx", "weights", "plan", "batch", "side", "workspace",
                                    "precision", "json"])  # fmt: skip
def test_engine_is_built_again_after_any_change(folder: Path, change: str) -> None:
    plan, where = plan_of(folder), HERE
    if change == "gpu":
        where = replace(HERE, gpu=A100)
    elif change == "tensorrt":
        where = replace(HERE, tensorrt="10.14.1.48")
    elif change == "patch":
        where = replace(HERE, tensorrt="10.13.2.6")
    elif change == "onnx":
        write_onnx(sd15.VAE_DECODER, folder, "fp16")
    elif change == "weights":
        (folder / "model.onnx.data").write_bytes(b"1")
        install(sd15.VAE_DECODER, folder.parents[1])
        assert engines.up_to_date(folder, plan, where) is not None  # type: ignore[arg-type]
        (folder / "model.onnx.data").write_bytes(b"2")
    elif change == "plan":
        (folder / "model_fp16_sm90_trt10.13.plan").write_bytes(b"cut")
    elif change == "json":
        (folder / "engine.json").write_text("{")
    else:
        options = {"batch": {"max_batch": 4}, "side": {"max_side": 512}, "workspace": {"workspace": GIB},
                   "precision": {"precision": "bf16"}}  # fmt: skip
        plan = plan_of(folder, **options[change])
    assert engines.up_to_date(folder, plan, where) is None  # type: ignore[arg-type]


def test_engine_is_up_to_date_for_a_touched_model(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content)
    assert engines.up_to_date(folder, plan_of(folder), HERE) is not None  # type: ignore[arg-type]


def test_engines_for_several_gpus_live_side_by_side(folder: Path) -> None:
    install(sd15.VAE_DECODER, folder.parents[1], gpu=A100)
    assert {kind: engine.file for kind, engine in engines.usable(folder).items()} == {
        "8.0": "model_fp16_sm80_trt10.13.plan",
        "9.0": "model_fp16_sm90_trt10.13.plan",
    }


def test_engines_of_an_older_model_are_removed(folder: Path) -> None:
    write_onnx(sd15.VAE_DECODER, folder, "fp32", fixed=False)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\x72\x00")
    assert engines.usable(folder) == {}
    install(sd15.VAE_DECODER, folder.parents[1], gpu=A100)
    assert [path.name for path in folder.glob("*.plan")] == ["model_fp16_sm80_trt10.13.plan"]
    assert list(engines.usable(folder)) == ["8.0"]
