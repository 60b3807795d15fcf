"""Building engines. TensorRT needs a GPU; TensorRT for RTX has the same API and builds without one, where its wheels
tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings are installed. Without them most of this is skipped.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import signal
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from darkroom.pipelines.sd15 import networks as sd15
from exporters.cli import main
from exporters.errors import ExportError
from exporters.tensorrt import build
from exporters.tensorrt.plan import EnginePlan, make_plan
from tests.engines import H100, write_onnx

# Timing caches are no-ops there.
pytestmark = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")

OWNERS = {
    "builder": "Builder",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "timings": "ITimingCache",
    "error": "ParserError",
}
"""What class the variables of build.py are of."""


def used_names() -> set[str]:
    """Every name of TensorRT's API that build.py writes down: "BuilderFlag.TF32", "OnnxParser.parse"."""
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(build))):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in {"trt", *OWNERS}:
            names.add(".".join([OWNERS[node.id], parts[0]] if node.id in OWNERS else parts))
    return names


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_bindings", "tensorrt_rtx_bindings"])
def test_the_api_has_every_name_that_is_used(module: str) -> None:
    try:
        trt = importlib.import_module(module)
    except (ImportError, OSError) as error:
        pytest.skip(f"{module} is not here: {error}")
    names = used_names()
    assert {"Builder.build_serialized_network", "OnnxParser.parse", "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
            "IOptimizationProfile.set_shape", "IBuilderConfig.progress_monitor"} <= names  # fmt: skip
    missing = []
    for name in sorted(names):
        found: Any = trt
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            missing.append(name)
    assert missing == []


@pytest.fixture
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")


def built(trt: Any, file: Path, report: Any = lambda share, phase: None, precision: Any = None) -> bytes:
    plan = make_plan(sd15.UNET, file, precision=precision)
    return build.build(trt, plan, file, timing_cache=file.parent / "cache" / "timings", report=report)


def test_an_engine_is_built(trt: Any, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    engine = built(trt, write_onnx(sd15.UNET, tmp_path, "fp16"), lambda share, phase: told.append((share, phase)))

    assert len(engine) > 1000
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert told[0][1] == "Building engine"


def test_weights_beside_the_model_are_found(trt: Any, tmp_path: Path) -> None:
    file = write_onnx(sd15.UNET, tmp_path, "fp16")
    model = onnx.load(str(file))
    onnx.save(model, str(file), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert (tmp_path / "model.onnx.data").stat().st_size > 20_000

    assert len(built(trt, file)) > 1000
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ExportError, match=r"TensorRT cannot read model\.onnx: .*initializer"):
        built(trt, file)


def test_pictures_of_8_bits_are_taken(trt: Any, tmp_path: Path) -> None:
    """A Transpose of 8-bit values in front of the Cast is what TensorRT refuses, and `for_tensorrt` turns round."""
    file = write_onnx(sd15.VAE_ENCODER, tmp_path, "fp16")
    model = onnx.load(str(file))
    model.graph.node[0].input[0] = "planes"
    model.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
    onnx.save(model, str(file))
    log = build._logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert not trt.OnnxParser(network, log).parse_from_file(str(file))

    plan = make_plan(sd15.VAE_ENCODER, file)
    assert build.build(trt, plan, file, timing_cache=tmp_path / "timings", report=lambda share, phase: None)


def test_all_errors_of_the_parser_are_listed(trt: Any, tmp_path: Path) -> None:
    file = write_onnx(sd15.UNET, tmp_path, "fp16")
    model = onnx.load(str(file))
    for name in ("Nonsense", "Humbug"):
        model.graph.node.append(helper.make_node(name, ["timestep_cast"], [name], name=f"the_{name}"))
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, None))
    onnx.save(model, str(file))

    with pytest.raises(ExportError) as refused:
        built(trt, file)

    sentence = str(refused.value)
    assert sentence.startswith("sd15_unet: TensorRT cannot read model.onnx: ")
    assert "node 'the_Nonsense' (Nonsense): " in sentence
    assert "node 'the_Humbug' (Humbug): " in sentence
    assert "\n" not in sentence


def test_types_that_this_version_leaves_no_choice_of(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"takes the types of the ONNX model, which is fp32; export it with --prec"):
        built(trt, write_onnx(sd15.UNET, tmp_path, "fp32"), precision="fp16")


def test_control_c_ends_a_build(trt: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        built(trt, write_onnx(sd15.UNET, tmp_path, "fp16"), lambda share, phase: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_from_the_command_to_the_config(trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is claimed; its engine is real, is not built twice, and ends in the config."""
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr("exporters.tensorrt.cli.building_gpu", lambda: H100)
    monkeypatch.setattr("exporters.tensorrt.engines.visible_gpus", lambda: (H100,))
    write_onnx(sd15.UNET, tmp_path / "sd15_unet" / "1", "fp16")
    command = ["tensorrt", "--output", str(tmp_path), "--cache", str(tmp_path / "cache")]
    name = f"model_fp16_sm90_trt{'.'.join(trt.__version__.split('.')[:2])}.plan"

    first, second = (CliRunner().invoke(main, command) for _ in range(2))

    assert first.exit_code == 0, first.output
    assert first.output.startswith(f"sd15_unet: built ({name}, ")
    assert f"NVIDIA H100, TensorRT {trt.__version__})" in first.output
    assert second.output == f"sd15_unet: up to date ({name})\n"
    options = ["config", "--engine", "tensorrt", "--gpus", "0", "--model", "sd15_unet", "--output", str(tmp_path)]
    assert CliRunner().invoke(main, options).exit_code == 0
    assert f'default_model_filename: "{name}"' in (tmp_path / "sd15_unet" / "config.pbtxt").read_text()


# --- what TensorRT's own words become


class Log:
    def __init__(self, *errors: str) -> None:
        self.errors = list(errors)


@pytest.fixture
def plan(tmp_path: Path) -> EnginePlan:
    return make_plan(sd15.UNET, write_onnx(sd15.UNET, tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        "[memory.cpp::resizePhysical::145] Error Code 2: OutOfMemory (Requested size was 68719476736 bytes.)",
        "Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 10: Internal Error (Could not find any implementation ... due to insufficient memory)",
    ],
)
def test_too_little_memory_names_what_helps(plan: EnginePlan, words: str) -> None:
    sentence = build._build_failure(plan, Log(words))
    assert "too little memory for batches of 16 at the largest size with 8 GiB of workspace" in sentence
    assert all(option in sentence for option in ("--max-batch", "--max-side", "--workspace-gib"))
    assert words in sentence


def test_other_failures_are_quoted_once_and_in_part(plan: EnginePlan) -> None:
    assert build._build_failure(plan, Log("a\n  b", "a b", "c")) == (
        "sd15_unet: TensorRT cannot build the engine: a b; c."
    )
    many = build._build_failure(plan, Log(*(str(number) * 1000 for number in range(6))))
    assert many.endswith("; and 2 more errors.")
    assert len(many) < 2000
    assert build._build_failure(plan, Log()).endswith("cannot build the engine: it gives no reason.")
