"""`darkroom.serving.onnx.session`: options, the chain of providers, and errors.

The engine is the real ONNX Runtime. What only a GPU can show (that the options work) is not shown here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from darkroom.serving.onnx import session
from darkroom.serving.onnx.session import Provider
from tests.triton import onnx_models as m


def with_parameters(**values: str) -> dict[str, Any]:
    names = {name.replace("__", "."): {"string_value": value} for name, value in values.items()}
    return {"parameters": names}


def with_gpu_accelerator(name: str, **parameters: str) -> dict[str, Any]:
    accelerator = {"name": name, "parameters": parameters}
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}}


# --- options --------------------------------------------------------------------------------------------------


def test_options_without_parameters_are_the_engines_but_for_spinning() -> None:
    options, default = session.session_options({}), ort.SessionOptions()
    for name in (
        "intra_op_num_threads",
        "inter_op_num_threads",
        "execution_mode",
        "graph_optimization_level",
        "enable_cpu_mem_arena",
        "enable_mem_pattern",
    ):
        assert getattr(options, name) == getattr(default, name), name
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("intra_op_thread_count", "3", "intra_op_num_threads", 3),
        ("inter_op_thread_count", "2", "inter_op_num_threads", 2),
        ("execution_mode", "1", "execution_mode", ort.ExecutionMode.ORT_PARALLEL),
        ("enable_mem_arena", "0", "enable_cpu_mem_arena", False),
        ("enable_mem_arena", "True", "enable_cpu_mem_arena", True),
        ("enable_mem_pattern", "off", "enable_mem_pattern", False),
    ],
)
def test_a_parameter_sets_its_option(name: str, value: str, attribute: str, expected: object) -> None:
    assert getattr(session.session_options(with_parameters(**{name: value})), attribute) == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_graph_level(level: int, expected: str) -> None:
    options = session.session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level == getattr(ort.GraphOptimizationLevel, expected)


@pytest.mark.parametrize("name", ["session.intra_op.allow_spinning", "session.use_device_allocator_for_initializers"])
def test_session_entries_reach_the_engine(name: str) -> None:
    options = session.session_options({"parameters": {name: {"string_value": "1"}}})
    assert options.get_session_config_entry(name) == "1"


def test_arena_shrinkage_is_an_option_of_the_run() -> None:
    options = session.run_options(with_parameters(memory__enable_memory_arena_shrinkage="cpu:0"))
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"


# --- the chain that a configuration asks for ------------------------------------------------------------------


def names(chain: Sequence[Any]) -> list[str]:
    return [provider.name for provider in chain]


def test_gpu_instances_want_cuda_on_their_device_with_the_quick_algorithm_search() -> None:
    cuda, cpu = session.wanted_providers({}, "GPU", 1)
    assert cuda == Provider("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"})
    assert cpu == Provider("CPUExecutionProvider")


@pytest.mark.parametrize("kind", ["CPU", "MODEL"])
def test_other_instances_want_the_cpu_whatever_the_gpu_accelerators(kind: str) -> None:
    assert names(session.wanted_providers(with_gpu_accelerator("tensorrt"), kind, 0)) == ["CPUExecutionProvider"]


def test_openvino_stands_before_the_cpu() -> None:
    config = {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}}
    chain = session.wanted_providers(config, "CPU", 0)
    assert names(chain) == ["OpenVINOExecutionProvider", "CPUExecutionProvider"]


def test_tensorrt_stands_before_cuda_with_its_parameters_translated() -> None:
    config = with_gpu_accelerator(
        "tensorrt",
        precision_mode="BF16",
        max_workspace_size_bytes="1000",
        int8_calibration_table_name="table",
        trt_engine_cache_enable="1",
        trt_engine_cache_path="/cache",
    )
    chain = session.wanted_providers(config, "GPU", 2)
    assert names(chain) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert chain[0].options == {
        "trt_bf16_enable": "1",
        "trt_max_workspace_size": "1000",
        "trt_int8_calibration_table_name": "table",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "device_id": "2",
    }


@pytest.mark.parametrize("precision", ["fp16", "FP8"])
def test_an_unknown_precision_is_an_error(precision: str) -> None:
    with pytest.raises(session.LoadError, match=f"precision_mode is '{precision}'.*FP16"):
        session.wanted_providers(with_gpu_accelerator("tensorrt", precision_mode=precision), "GPU", 0)


def test_an_unknown_tensorrt_parameter_is_an_error() -> None:
    with pytest.raises(session.LoadError, match="'trt_engine_cache_enabled'"):
        session.wanted_providers(with_gpu_accelerator("tensorrt", trt_engine_cache_enabled="1"), "GPU", 0)


def test_an_unknown_gpu_accelerator_is_an_error() -> None:
    with pytest.raises(session.LoadError, match="unknown gpu_execution_accelerator 'auto_io'"):
        session.wanted_providers(with_gpu_accelerator("auto_io"), "GPU", 0)


def test_cuda_options_from_the_accelerator_and_from_the_old_parameters() -> None:
    config = {
        **with_gpu_accelerator("cuda", cudnn_conv_use_max_workspace="0", cudnn_conv_algo_search="DEFAULT"),
        **with_parameters(gpu_mem_limit="5", arena_extend_strategy="1", do_copy_in_default_stream="0"),
    }
    assert session.wanted_providers(config, "GPU", 0)[0].options == {
        "cudnn_conv_use_max_workspace": "0",
        "cudnn_conv_algo_search": "DEFAULT",
        "gpu_mem_limit": "5",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "0",
        "device_id": "0",
    }


@pytest.mark.parametrize(("value", "expected"), [("0", "EXHAUSTIVE"), ("1", "HEURISTIC"), ("2", "DEFAULT")])
def test_the_algorithm_search_by_its_old_numbers(value: str, expected: str) -> None:
    config = with_parameters(cudnn_conv_algo_search=value)
    assert session.wanted_providers(config, "GPU", 0)[0].options["cudnn_conv_algo_search"] == expected


def test_an_unknown_number_of_an_algorithm_search_is_an_error() -> None:
    with pytest.raises(session.LoadError, match="cudnn_conv_algo_search is '7'"):
        session.wanted_providers(with_parameters(cudnn_conv_algo_search="7"), "GPU", 0)


# --- walking down the chain -----------------------------------------------------------------------------------

TENSORRT, CUDA, CPU = (Provider(f"{engine}ExecutionProvider") for engine in ("Tensorrt", "CUDA", "CPU"))


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(m.identity(("x", [2])).SerializeToString())
    return path


def test_providers_that_are_not_built_in_fall_to_the_cpu_one_by_one(onnx_file: Path) -> None:
    warnings: list[str] = []
    opened = session.open_session(onnx_file, ort.SessionOptions(), (TENSORRT, CUDA, CPU), warnings.append)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    assert [text.split(" is not used: ")[0] for text in warnings] == [TENSORRT.name, CUDA.name]
    for text in warnings:
        assert "this build of onnxruntime does not have it" in text
        assert text.endswith("CPUExecutionProvider is used instead")


def test_the_cpu_alone_warns_of_nothing(onnx_file: Path) -> None:
    warnings: list[str] = []
    session.open_session(onnx_file, ort.SessionOptions(), (CPU,), warnings.append)
    assert warnings == []


class Opened:
    """A session as far as the chain looks at it."""

    def __init__(self, *running: str) -> None:
        self._running = list(running)

    def get_providers(self) -> list[str]:
        return self._running


def test_a_provider_that_fails_is_given_up_for_the_next(onnx_file: Path) -> None:
    def build(providers: Sequence[Any]) -> Any:
        pairs = [(provider.name, dict(provider.options)) for provider in providers]
        return ort.InferenceSession(str(onnx_file), providers=pairs, enable_fallback=0)

    warnings: list[str] = []
    broken = Provider("NonsenseExecutionProvider")  # one that the real engine fails to start
    with pytest.warns(UserWarning, match="NonsenseExecutionProvider"):
        opened = session.first_working((broken, CPU), (broken.name, CPU.name), build, warnings.append)
    assert opened.get_providers() == [CPU.name]
    (text,) = warnings
    assert text.startswith("NonsenseExecutionProvider is not used: RuntimeError: Unknown Provider Type")
    assert text.endswith("; CPUExecutionProvider is used instead")


def test_a_provider_that_the_engine_leaves_out_in_silence_is_told_of() -> None:
    warnings: list[str] = []
    running = Opened(CUDA.name, CPU.name)
    available = (TENSORRT.name, CUDA.name, CPU.name)
    assert session.first_working((TENSORRT, CUDA, CPU), available, lambda _: running, warnings.append) is running
    (text,) = warnings
    assert text.startswith("TensorrtExecutionProvider is not used: onnxruntime left it out")
    assert text.endswith("CUDAExecutionProvider is used instead")


def test_a_damaged_file_is_not_tried_on_every_provider(tmp_path: Path) -> None:
    tries: list[list[str]] = []
    warnings: list[str] = []

    def build(providers: Sequence[Any]) -> Any:
        tries.append(names(providers))
        return ort.InferenceSession(str(damaged), providers=[CPU.name], enable_fallback=0)

    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"no protobuf")
    with pytest.raises(Exception, match="Protobuf parsing failed"):
        session.first_working((CUDA, CPU), (CUDA.name, CPU.name), build, warnings.append)
    assert tries == [[CUDA.name, CPU.name]]
    assert warnings == []


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4096"),
        RuntimeError("Available memory of 0 is smaller than requested bytes of 4096"),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"),
        RuntimeError("CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"),
        RuntimeError("CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_every_engines_out_of_memory_is_marked(error: Exception) -> None:
    assert session.error_text("net", error).startswith("OUT_OF_MEMORY: net: ")


@pytest.mark.parametrize("text", ["indices element out of data bounds", "CUDNN_STATUS_EXECUTION_FAILED"])
def test_other_errors_are_not(text: str) -> None:
    assert session.error_text("net", RuntimeError(text)) == f"net: {text}"
