"""Renders config.pbtxt files from ModelSpecs, and finds committed files that differ.

Only fields that NVIDIA's native `onnxruntime`, `tensorrt` and `python` backends accept are written, so that one
repository serves both the embedded server (which has no TensorRT) and NVIDIA's container. Nothing depends on the
machine unless an option asks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from darkroom.files import write_atomically
from darkroom.serving.networks import ModelSpec, TensorSpec
from exporters.errors import ExportError
from exporters.tensorrt.engines import Served

_HEADER = "# Rendered by `python -m exporters config`; edit networks.py of the family, not this file."

# 1 = HEURISTIC. EXHAUSTIVE, the default of NVIDIA's backend, costs hundreds of milliseconds per new image size.
_GPU_PARAMETERS = {"cudnn_conv_algo_search": "1"}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how the networks run.

    :param gpus: GPU numbers; none = on the CPU. Networks get one instance per GPU, pipelines stay on the CPU.
    :param unknown_device: whether the device is unknown to Triton, for example an NPU. In the config it counts as a
        CPU, but the batches and parameters for CPUs do not apply.
    :param instances: instances per device.
    :param max_batch: overrides the largest batch of every network; None = what its family says.
    :param queue_delay_us: time that an incomplete batch waits for more requests, in microseconds; 0 = no wait.
    :param threads: ONNX Runtime threads per instance on a CPU; None = all cores.
    :param engines: TensorRT engines by the network's name; a network without one runs on ONNX Runtime.
    """

    gpus: tuple[int, ...] = ()
    instances: int = 1
    max_batch: int | None = None
    queue_delay_us: int = 0
    threads: int | None = None
    engines: Mapping[str, Served] = field(default_factory=dict)
    unknown_device: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the networks compute on the CPU."""
        return not self.gpus and not self.unknown_device


def render(spec: ModelSpec, placement: Placement) -> str:
    """The text of one config.pbtxt."""
    is_network = spec.is_network
    batch, engine = _max_batch(spec, placement), placement.engines.get(spec.name)
    runs_on = _engine_files(engine) if engine else f'backend: "{spec.backend}"'
    blocks = [
        _HEADER,
        f'name: "{spec.name}"\n{runs_on}\nmax_batch_size: {batch}',
        *([] if spec.tensors_from_graph else [_tensors("input", spec.inputs), _tensors("output", spec.outputs)]),
        _instances(placement if is_network else Placement(), engine),
    ]
    if is_network and batch > 0:
        # No queue policy: it would switch prefetching off and double the time of a burst.
        delay = placement.queue_delay_us
        inside = f" max_queue_delay_microseconds: {delay} " if delay else " "
        blocks.append(f"dynamic_batching {{{inside}}}")
    if spec.decoupled:
        blocks.append("model_transaction_policy { decoupled: true }")
    blocks += [
        f'parameters {{\n  key: "{key}"\n  value: {{ string_value: "{value}" }}\n}}'
        for key, value in sorted(_parameters(spec, placement).items())
    ]
    return "\n".join(blocks) + "\n"


def _engine_files(engine: Served) -> str:
    lines = ['platform: "tensorrt_plan"\nbackend: "tensorrt"']
    lines.append(f'default_model_filename: "{next(iter(engine.files.values()))}"')
    if len(engine.files) > 1:  # for GPUs of several kinds: each loads the engine of its compute capability
        lines += [f'cc_model_filenames {{\n  key: "{kind}"\n  value: "{f}"\n}}' for kind, f in engine.files.items()]
    return "\n".join(lines)


def _max_batch(spec: ModelSpec, placement: Placement) -> int:
    if spec.max_batch_size == 0:
        return 0
    if engine := placement.engines.get(spec.name):
        wanted = placement.max_batch or min(spec.max_batch_size, engine.max_batch)
        if wanted > engine.max_batch:
            raise ExportError(
                f"The engine of {spec.name} takes batches of up to {engine.max_batch}; got --max-batch {wanted}. Build "
                f"it again: python -m exporters tensorrt --model {spec.name} --max-batch {wanted}"
            )
        return wanted
    if placement.max_batch is not None:
        return placement.max_batch
    if placement.on_cpu and spec.max_batch_size_cpu is not None:
        return spec.max_batch_size_cpu
    return spec.max_batch_size


def _tensors(kind: str, tensors: Iterable[TensorSpec]) -> str:
    entries = []
    for tensor in tensors:
        lines = [
            f'    name: "{tensor.name}"',
            f"    data_type: TYPE_{tensor.dtype}",
            f"    dims: [ {', '.join(map(str, tensor.dims))} ]",
        ]
        if tensor.optional:
            lines.append("    optional: true")
        entries.append("  {\n" + "\n".join(lines) + "\n  }")
    return f"{kind} [\n" + ",\n".join(entries) + "\n]"


def _instances(placement: Placement, engine: Served | None = None) -> str:
    # Always with a count: without it a CPU model gets two instances, and two copies of its weights.
    device = "kind: KIND_CPU"
    if placement.gpus:
        device = f"kind: KIND_GPU\n    gpus: [ {', '.join(map(str, placement.gpus))} ]"
    if engine and engine.profiles > 1:  # unnamed, only the first one is used
        numbers = ", ".join(f'"{number}"' for number in range(engine.profiles))
        device += f"\n    profile: [ {numbers} ]"
    return f"instance_group [\n  {{\n    count: {placement.instances}\n    {device}\n  }}\n]"


def _parameters(spec: ModelSpec, placement: Placement) -> dict[str, str]:
    if spec.name in placement.engines:
        return {}  # those of the spec are ONNX Runtime's
    parameters = dict(spec.parameters)
    if spec.is_network and placement.on_cpu:
        parameters |= spec.parameters_cpu
    if spec.is_network and placement.gpus:
        parameters |= spec.parameters_gpu
    if spec.backend == "onnxruntime":
        parameters |= _GPU_PARAMETERS if placement.gpus else {}
        if placement.threads is not None and not placement.gpus:
            parameters["intra_op_thread_count"] = str(placement.threads)
    return parameters


def placement_of(text: str, spec: ModelSpec) -> Placement:
    """The placement that the config of a network was rendered with.

    :raises ValueError: not the text of a config with instances.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    try:
        model = text_format.Parse(text, model_config_pb2.ModelConfig())
        group = model.instance_group[0]
    except (text_format.ParseError, IndexError) as error:
        raise ValueError(f"the config of {spec.name} cannot be read: {error}") from None
    threads = model.parameters["intra_op_thread_count"].string_value
    found = Placement(
        gpus=tuple(group.gpus),
        instances=group.count,
        queue_delay_us=model.dynamic_batching.max_queue_delay_microseconds,
        threads=int(threads) if threads else None,
    )
    kinds = [found] if found.gpus else [found, replace(found, unknown_device=True)]
    usual = (kind for kind in kinds if model.max_batch_size == _max_batch(spec, kind))
    return next(usual, replace(found, max_batch=model.max_batch_size))


def config_path(repository: Path, spec: ModelSpec) -> Path:
    """Return the path of the config of a model."""
    return repository / spec.name / "config.pbtxt"


def model_code(spec: ModelSpec) -> str:
    """The model.py of a model of Triton's Python backend: the family's class in Triton's host.

    Triton runs the file in two processes, one after the other; the first one only looks whether `TritonPythonModel`
    completes configurations. So that it need not wait for torch and diffusers, the imports are in the call that only
    the second one makes.
    """
    module, _, name = spec.implementation.partition(":")
    host = "Network" if spec.is_network else "Pipeline"
    return (
        "def TritonPythonModel() -> object:  # noqa: N802\n"
        f"    from {module} import {name}  # not above: see model_code in exporters/config.py\n"
        f"    from darkroom.serving.triton_{host.lower()} import Triton{host}\n\n"
        f"    return Triton{host}({name}())\n"
    )


def write_configs(repository: Path, specs: Iterable[ModelSpec], placement: Placement) -> list[Path]:
    """Write all configs, and the model.py of what runs in Python; returns the configs that changed."""
    changed = []
    for spec in specs:
        write_code(repository, spec)
        path = config_path(repository, spec)
        if _write(path, render(spec, placement)):
            changed.append(path)
    return changed


def write_code(repository: Path, spec: ModelSpec) -> None:
    """Write the model.py of what runs in Python."""
    if spec.backend == "python":
        _write(code_path(repository, spec), model_code(spec))


def renew(repository: Path, spec: ModelSpec) -> None:
    """Rewrite files that an older version may have written differently: model.py, and the config of a pipeline, whose
    inputs follow from the fields of requests. Files of the user stay."""
    path = config_path(repository, spec)
    if code_path(repository, spec).is_file():
        write_code(repository, spec)
    if not spec.is_network and path.is_file() and path.read_text().startswith(_HEADER):
        _write(path, render(spec, Placement()))


def code_path(repository: Path, spec: ModelSpec) -> Path:
    """Return the path of the code of a model of Triton's Python backend."""
    return repository / spec.name / "1" / "model.py"


def _write(path: Path, text: str) -> bool:
    """Write a file unless it holds that text; returns whether it was written."""
    if path.is_file() and path.read_text() == text:
        return False
    write_atomically(path, text.encode())
    return True


def drift(repository: Path, specs: Iterable[ModelSpec], placement: Placement) -> str:
    """A unified diff from the files that are there to those that would be rendered; "" when they agree."""
    diffs: list[str] = []
    for spec in specs:
        path = config_path(repository, spec)
        before = path.read_text() if path.is_file() else ""
        after = render(spec, placement)
        name = f"{spec.name}/{path.name}"
        diffs += difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), name, f"{name} (rendered)"
        )
    return "".join(diffs)
