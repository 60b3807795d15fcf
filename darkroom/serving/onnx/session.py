"""From a model configuration to an ONNX Runtime session: file, session options, and the chain of providers.

Independent of Triton: configurations are the parsed JSON of a ModelConfig, so everything here runs in a
plain test. Names of parameters and accelerators, and what they mean, follow NVIDIA's native backend
(triton-inference-server/onnxruntime_backend, README.md and src/onnxruntime.cc, 26.06); defaults of ours that
differ are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort

from darkroom.serving.accelerators import PROVIDERS
from darkroom.serving.out_of_memory import MARK, is_out_of_memory

Config = Mapping[str, Any]
Warn = Callable[[str], None]
Build = Callable[[Sequence["Provider"]], Any]

CPU, CUDA, TENSORRT, OPENVINO = (f"{engine}ExecutionProvider" for engine in ("CPU", "CUDA", "Tensorrt", "OpenVINO"))

# What `optimization.graph.level` means: src/onnxruntime.cc, ModelState::ModelState.
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_EXECUTION_MODES = {"0": ort.ExecutionMode.ORT_SEQUENTIAL, "1": ort.ExecutionMode.ORT_PARALLEL}
_BOOLEANS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}

# Ours: a spinning pool burns the cores that the pipelines beside it need; native leaves spinning on.
_SESSION_DEFAULTS = {"session.intra_op.allow_spinning": "0"}
SHRINK = "memory.enable_memory_arena_shrinkage"
"""The model parameter that has memory freed after each run."""
_RUN_ENTRIES = (SHRINK,)

# Ours: EXHAUSTIVE, native's default, times every algorithm again for every new shape.
_CUDA_DEFAULTS = {"cudnn_conv_algo_search": "HEURISTIC"}
# Old spellings of CUDA options, as model parameters; None passes the value on as it is.
_CUDA_PARAMETERS: Mapping[str, Mapping[str, str] | None] = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "gpu_mem_limit": None,
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "do_copy_in_default_stream": None,
}

_TENSORRT_PRECISION = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
_TENSORRT_RENAMED = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_TENSORRT_SAME = frozenset(
    "trt_" + name
    for name in (
        "max_partition_iterations",
        "min_subgraph_size",
        "dla_enable",
        "dla_core",
        "engine_cache_enable",
        "engine_cache_path",
        "engine_cache_prefix",
        "dump_subgraphs",
        "force_sequential_engine_build",
        "context_memory_sharing_enable",
        "layer_norm_fp32_fallback",
        "timing_cache_enable",
        "timing_cache_path",
        "force_timing_cache",
        "detailed_build_log",
        "build_heuristics_enable",
        "sparsity_enable",
        "builder_optimization_level",
        "auxiliary_streams",
        "tactic_sources",
        "extra_plugin_lib_paths",
        "profile_min_shapes",
        "profile_max_shapes",
        "profile_opt_shapes",
        "cuda_graph_enable",
        "dump_ep_context_model",
        "ep_context_file_path",
        "ep_context_embed_mode",
    )
)

# Failures that lie in the file, so that another provider would only repeat them, by ONNX Runtime's class names
# (the classes stand in a private module). `InvalidArgument` is not among them: it may be a provider's option.
_FILE_FAULTS = ("NoSuchFile", "InvalidProtobuf", "NoModel")


class LoadError(Exception):
    """The model cannot be served as it is configured; the message says what to change."""


@dataclass(frozen=True)
class Provider:
    """An execution provider by its ONNX Runtime name, with its options."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


def error_text(name: str, error: Exception) -> str:
    """The text of an error for clients: the model and the reason, after "OUT_OF_MEMORY: " if memory ran out.

    This prefix is part of the interface: callers that see it try again with smaller inputs.
    """
    text = str(error).strip() or type(error).__name__
    return f"{MARK if is_out_of_memory(error) else ''}{name}: {text}"


def model_file(config: Config, model_folder: Path, version: str) -> Path:
    """The .onnx file of a version: `default_model_filename`, or `model.onnx` in a folder of that name.

    :raises LoadError: the file is missing; the message has its path relative to the model repository.
    """
    path = model_folder / version / (config.get("default_model_filename") or "model.onnx")
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        expected = path.relative_to(model_folder.parent)
        raise LoadError(f"'{expected}' is not in the model repository: this network has not been exported")
    return path


def parameter(config: Config, name: str, default: str = "") -> str:
    """A model parameter's `string_value`, or `default` where the configuration has none or an empty one."""
    entry = config.get("parameters", {}).get(name, {})
    return str(entry.get("string_value", "")) or default


def session_options(config: Config) -> ort.SessionOptions:
    """Threads, memory, graph level, custom operators and `session.*` entries of a configuration.

    Thread counts that are unset or 0 mean ONNX Runtime's default: one thread per core.

    :raises LoadError: a value that its parameter does not take.
    """
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    # Like native, which treats unknown levels as "all".
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, _GRAPH_LEVELS[0])
    options.execution_mode = _choice(config, "execution_mode", _EXECUTION_MODES, "0")
    options.intra_op_num_threads = count(config, "intra_op_thread_count")
    options.inter_op_num_threads = count(config, "inter_op_thread_count")
    options.enable_cpu_mem_arena = _choice(config, "enable_mem_arena", _BOOLEANS, "1")
    options.enable_mem_pattern = _choice(config, "enable_mem_pattern", _BOOLEANS, "1")
    own = {name: parameter(config, name) for name in config.get("parameters", {}) if name.startswith("session.")}
    for name, value in {**_SESSION_DEFAULTS, **own}.items():
        options.add_session_config_entry(name, value)
    for library in config.get("model_operations", {}).get("op_library_filename", ()):
        options.register_custom_ops_library(library)
    return options


def run_options(config: Config) -> ort.RunOptions:
    """The options of every run: `memory.enable_memory_arena_shrinkage`."""
    options = ort.RunOptions()
    for name in _RUN_ENTRIES:
        if value := parameter(config, name):
            options.add_run_config_entry(name, value)
    return options


def wanted_providers(config: Config, kind: str, device: int) -> tuple[Provider, ...]:
    """The providers that a configuration asks for, best first and CPU last.

    GPU instances (`kind` is "GPU") want CUDA, behind TensorRT where a `gpu_execution_accelerator` names it;
    `cpu_execution_accelerator` may name OpenVINO. The kinds of `darkroom.serving.accelerators` want their provider, and
    all others run on the CPU, as with native.

    :raises LoadError: an accelerator or a parameter that is unknown, also to native.
    """
    if kind in PROVIDERS:
        return (Provider(PROVIDERS[kind]), Provider(CPU))
    chain = _gpu_providers(config, device) if kind == "GPU" else []
    for accelerator in _accelerators(config, "cpu"):
        if accelerator["name"] != "openvino":
            raise LoadError(_unknown_accelerator("cpu", accelerator["name"], ("openvino",)))
        chain.append(Provider(OPENVINO, {"device_type": "CPU"}))
    return (*chain, Provider(CPU))


def open_session(path: Path, options: ort.SessionOptions, wanted: Sequence[Provider], warn: Warn) -> Any:
    """An `InferenceSession` over `path` on the best of the `wanted` providers that works here.

    :raises Exception: ONNX Runtime's own, when the file is at fault or the last provider fails too.
    """
    if any(provider.name in (CUDA, TENSORRT) for provider in wanted) and CUDA in ort.get_available_providers():
        # CUDA and cuDNN from pip are not on the library path, and torch, which would load them, is not imported here.
        ort.preload_dlls()

    def build(providers: Sequence[Provider]) -> Any:
        pairs = [(provider.name, dict(provider.options)) for provider in providers]
        # Its own fallback would print, skip CUDA, and hide which provider failed.
        return ort.InferenceSession(str(path), options, providers=pairs, enable_fallback=0)

    return first_working(wanted, ort.get_available_providers(), build, warn)


def first_working(wanted: Sequence[Provider], available: Collection[str], build: Build, warn: Warn) -> Any:
    """Build a session with the best providers that work, and call `warn` for each provider that is given up.

    :param wanted: best first; the last one has to be among `available`.
    :param available: names that this build of ONNX Runtime has (it silently drops the others).
    :param build: a session from providers; the session's `get_providers()` says which of them it got.
    :returns: the session.
    :raises Exception: what `build` raised for the last provider, or for a fault of the file.
    """
    usable = [provider for provider in wanted if provider.name in available]
    for provider in wanted:
        if provider not in usable:
            reason = f"this build of onnxruntime does not have it (it has {', '.join(available)})"
            warn(_given_up(provider.name, reason, usable[0].name))
    while True:
        try:
            session = build(usable)
        except Exception as error:
            if len(usable) == 1 or type(error).__name__ in _FILE_FAULTS:
                raise
            warn(_given_up(usable[0].name, f"{type(error).__name__}: {error}".strip(), usable[1].name))
            del usable[0]
            continue
        running = session.get_providers()
        for provider in usable:
            if provider.name not in running:
                reason = "onnxruntime left it out (its libraries do not load here? the log above has its reason)"
                warn(_given_up(provider.name, reason, running[0]))
        return session


def _given_up(name: str, reason: str, instead: str) -> str:
    return f"{name} is not used: {reason}; {instead} is used instead"


def _gpu_providers(config: Config, device: int) -> list[Provider]:
    place = {"device_id": str(device)}
    chain: list[Provider] = []
    cuda = dict(_CUDA_DEFAULTS)
    for accelerator in _accelerators(config, "gpu"):
        name, values = accelerator["name"], accelerator.get("parameters", {})
        if name == "tensorrt":
            chain.append(Provider(TENSORRT, {**_tensorrt_options(values), **place}))
        elif name == "cuda":
            cuda.update(values)
        else:
            raise LoadError(_unknown_accelerator("gpu", name, ("tensorrt", "cuda")))
    for name, choices in _CUDA_PARAMETERS.items():
        if value := parameter(config, name):
            cuda[name] = _choice(config, name, choices, value) if choices else value
    return [*chain, Provider(CUDA, {**cuda, **place})]


def _tensorrt_options(values: Mapping[str, str]) -> dict[str, str]:
    """TensorRT options of ONNX Runtime from the accelerator's parameters.

    :raises LoadError: an unknown parameter or precision, as with native, so that typing errors are found.
    """
    options: dict[str, str] = {}
    for name, value in values.items():
        if name == "precision_mode":
            if value not in _TENSORRT_PRECISION:
                raise LoadError(f"precision_mode is '{value}', expected one of {', '.join(_TENSORRT_PRECISION)}")
            options.update(_TENSORRT_PRECISION[value])
        elif name in _TENSORRT_RENAMED or name in _TENSORRT_SAME:
            options[_TENSORRT_RENAMED.get(name, name)] = value
        else:
            raise LoadError(f"unknown parameter '{name}' for the TensorRT execution accelerator")
    return options


def _accelerators(config: Config, side: str) -> Sequence[Mapping[str, Any]]:
    groups = config.get("optimization", {}).get("execution_accelerators", {})
    found: Sequence[Mapping[str, Any]] = groups.get(f"{side}_execution_accelerator", ())
    return found


def _unknown_accelerator(side: str, name: str, known: Sequence[str]) -> str:
    return f"unknown {side}_execution_accelerator '{name}', expected one of: {', '.join(known)}"


def _choice(config: Config, name: str, choices: Mapping[str, Any], default: str) -> Any:
    value = parameter(config, name, default)
    if value.lower() not in choices:
        raise LoadError(f"parameter {name} is '{value}', expected one of: {', '.join(choices)}")
    return choices[value.lower()]


def count(config: Config, name: str) -> int:
    """A model parameter that is a number; 0 where the configuration has none.

    :raises LoadError: it is no number.
    """
    value = parameter(config, name, "0")
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise LoadError(f"parameter {name} is '{value}', expected a whole number, 0 or more")
    return number
