"""Compare a model configuration with the graph's inputs and outputs, and complete it from the graph.

The rules are those of NVIDIA's native backend (triton-inference-server/onnxruntime_backend, 26.06:
src/onnxruntime.cc `ValidateInputs`, `ValidateOutputs`, `AutoCompleteConfig`; src/onnxruntime_utils.cc
`CompareDimsSupported`), so that a configuration that loads here loads there. Stricter than native in one
thing: a tensor without dimensions in a batching model is refused, where native reads past its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.serving.onnx.session import Config, LoadError

# Element types that a Triton tensor and numpy both have; native also takes BF16, which numpy cannot hold.
DATA_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}

# Parts of a configuration that only the native backend can honour: ignoring them would give wrong answers.
_NATIVE_ONLY = ("sequence_batching", "batch_input", "batch_output", "cc_model_filenames")

# Native's --backend-config=onnxruntime,default-max-batch-size, which does not reach a Python-based backend.
DEFAULT_MAX_BATCH_SIZE = 4


@dataclass(frozen=True)
class GraphTensor:
    """An input or output as the graph declares it; -1 in `dims` is a dynamic dimension, no dims a scalar."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph. `optional` are inputs with an initializer as their default value."""

    inputs: Mapping[str, GraphTensor]
    optional: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]


def graph_signature(session: Any) -> Signature:
    """The signature of an ONNX Runtime session. Types that Triton lacks keep ONNX Runtime's name."""

    def read(arguments: Iterable[Any]) -> dict[str, GraphTensor]:
        tensors = {}
        for argument in arguments:
            dims = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
            tensors[argument.name] = GraphTensor(argument.name, DATA_TYPES.get(argument.type, argument.type), dims)
        return tensors

    return Signature(
        inputs=read(session.get_inputs()),
        optional=read(session.get_overridable_initializers()),
        outputs=read(session.get_outputs()),
    )


def check_config(config: Config, graph: Signature) -> None:
    """Refuse a configuration that the graph cannot serve.

    Every required input has to be in the configuration; outputs may be a part of the graph's. Input dims may
    be narrower than the graph's (a size for a -1), output dims have to be the same, as with native.

    :raises LoadError: names the tensor and what each side says.
    """
    for part in _NATIVE_ONLY:
        if config.get(part):
            raise LoadError(f"'{part}' is not supported by this backend; NVIDIA's native onnxruntime backend has it")
    if config.get("model_transaction_policy", {}).get("decoupled"):
        raise LoadError("model_transaction_policy says decoupled, but an ONNX model answers each request once")
    batching = int(config["max_batch_size"]) > 0
    _check_inputs(config["input"], graph, batching)
    for entry in config["output"]:
        tensor = _find("output", entry["name"], graph.outputs)
        _check_tensor("output", entry, tensor, batching, exact=True)


def scalar_outputs(config: Config, graph: Signature) -> dict[str, tuple[int, ...]]:
    """The shapes under which outputs without dimensions are returned: Triton has no scalars, so `dims` (all 1)."""
    return {
        entry["name"]: _configured_dims(entry) for entry in config["output"] if not graph.outputs[entry["name"]].dims
    }


def complete_config(config: dict[str, Any], graph: Signature) -> None:
    """Add, in place, what is missing: inputs, outputs, max_batch_size and the dynamic batcher.

    Batching (`max_batch_size` 4 and a dynamic batcher, unless the configuration says otherwise) is taken to be
    possible where every input and output has a dynamic first dimension.

    :raises LoadError: max_batch_size is set, but a first dimension is fixed.
    """
    tensors = [*graph.inputs.values(), *graph.outputs.values()]
    fixed = [tensor for tensor in tensors if tensor.dims[:1] != (-1,)]
    if fixed and config["max_batch_size"] > 0:
        raise LoadError(
            f"max_batch_size is {config['max_batch_size']}, but the graph cannot be batched: "
            f"'{fixed[0].name}' has shape {list(fixed[0].dims)}, whose first dimension is not dynamic"
        )
    if not fixed:
        config["max_batch_size"] = config["max_batch_size"] or DEFAULT_MAX_BATCH_SIZE
        if config["max_batch_size"] > 1 and "sequence_batching" not in config:
            config.setdefault("dynamic_batching", {})
    for part, found in (("input", graph.inputs), ("output", graph.outputs)):
        if not config.get(part):
            config[part] = [_config_entry(tensor, batching=not fixed) for tensor in found.values()]


def _config_entry(tensor: GraphTensor, *, batching: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": tensor.name, "data_type": tensor.dtype}
    dims = list(tensor.dims[1:] if batching else tensor.dims)
    if not dims and batching:
        entry["reshape"] = {"shape": []}
    return {**entry, "dims": dims or [1]}  # dims may not be empty: one element, reshaped away where it can be


def _check_inputs(entries: Sequence[Mapping[str, Any]], graph: Signature, batching: bool) -> None:
    known = {**graph.inputs, **graph.optional}
    for entry in entries:
        if entry.get("optional") and batching:
            raise LoadError(f"optional input '{entry['name']}' is not supported where max_batch_size is above 0")
        if entry.get("allow_ragged_batch"):
            raise LoadError(f"input '{entry['name']}': allow_ragged_batch is not supported by this backend")
        tensor = _find("input", entry["name"], known)
        _check_tensor("input", entry, tensor, batching, exact=False)
    required = [entry["name"] for entry in entries if not entry.get("optional")]
    if set(required) != set(graph.inputs):
        raise LoadError(
            f"the configuration has {len(required)} required inputs ({', '.join(required)}), "
            f"the graph has {len(graph.inputs)} ({', '.join(graph.inputs)})"
        )


def _find(side: str, name: str, known: Mapping[str, GraphTensor]) -> GraphTensor:
    if name not in known:
        raise LoadError(f"{side} '{name}' is not in the graph, whose {side}s are: {', '.join(known)}")
    return known[name]


def _check_tensor(side: str, entry: Mapping[str, Any], tensor: GraphTensor, batching: bool, *, exact: bool) -> None:
    who = f"{side} '{tensor.name}'"
    if tensor.dtype not in DATA_TYPES.values():
        raise LoadError(f"{who}: the graph has {tensor.dtype}, which this backend cannot carry")
    if entry["data_type"] != tensor.dtype:
        raise LoadError(f"{who}: the configuration says {entry['data_type']}, the graph has {tensor.dtype}")
    if batching and tensor.dims[:1] != (-1,):
        raise LoadError(
            f"{who}: max_batch_size is above 0, so the first dimension has to be dynamic, "
            f"but the graph has shape {list(tensor.dims)}"
        )
    dims = ((-1,) if batching else ()) + _configured_dims(entry)
    if not _dims_agree(dims, tensor.dims, exact=exact):
        note = " (with the batch dimension in front)" if batching else ""
        raise LoadError(f"{who}: the configuration says dims {list(dims)}{note}, the graph has {list(tensor.dims)}")


def _configured_dims(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """The dims that the graph gets: Triton itself reshapes inputs and outputs."""
    dims = entry["reshape"].get("shape", ()) if "reshape" in entry else entry["dims"]
    return tuple(int(size) for size in dims)


def _dims_agree(configured: tuple[int, ...], graph: tuple[int, ...], *, exact: bool) -> bool:
    if not graph:  # a scalar, or a tensor of unknown rank, which ONNX Runtime shows the same way
        return all(size == 1 for size in configured)
    if len(configured) != len(graph):
        return False
    return all(ours == theirs or (theirs == -1 and not exact) for ours, theirs in zip(configured, graph, strict=True))
