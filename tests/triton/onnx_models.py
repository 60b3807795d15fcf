"""Tiny ONNX graphs, and model folders around them, for tests against a real tritonserver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Dims = Sequence[int | str | None]

# Triton's name (as clients spell it), ONNX element type, and a value of every kind of interest.
TYPES = {
    "BOOL": (TensorProto.BOOL, [True, False]),
    "UINT8": (TensorProto.UINT8, [0, 255]),
    "UINT16": (TensorProto.UINT16, [0, 2**16 - 1]),
    "UINT32": (TensorProto.UINT32, [0, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, [0, 2**64 - 1]),
    "INT8": (TensorProto.INT8, [-128, 127]),
    "INT16": (TensorProto.INT16, [-(2**15), 2**15 - 1]),
    "INT32": (TensorProto.INT32, [-(2**31), 2**31 - 1]),
    "INT64": (TensorProto.INT64, [-(2**63), 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, [-0.5, 65504]),
    "FP32": (TensorProto.FLOAT, [-0.1, 3e38]),
    "FP64": (TensorProto.DOUBLE, [-0.1, 1e300]),
    "BYTES": (TensorProto.STRING, [b"caf\xc3\xa9", b"nul\x00inside"]),
}


def tensor(name: str, dtype: str, dims: Dims | None) -> ValueInfoProto:
    """A graph input or output; a string in `dims` is a dynamic dimension."""
    return helper.make_tensor_value_info(name, TYPES[dtype][0], dims)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def constant(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(values, name)


def identity(*ports: tuple[str, Dims], dtype: str = "FP32") -> onnx.ModelProto:
    """For each (name, dims): an input `name`, and the same as output `name_out`."""
    return graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _ in ports],
        [tensor(name, dtype, dims) for name, dims in ports],
        [tensor(f"{name}_out", dtype, dims) for name, dims in ports],
    )


def all_types() -> onnx.ModelProto:
    """One input and one output of every type, (batch, n) each."""
    return graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in TYPES],
        [tensor(name, name, ["batch", "n"]) for name in TYPES],
        [tensor(f"{name}_out", name, ["batch", "n"]) for name in TYPES],
    )


def batch_size() -> onnx.ModelProto:
    """`doubled` is twice `x` (batch, n); `rows` (batch, 1) tells every row how large the batch was."""
    zero = constant("zero", np.zeros(1, np.int64))
    two = constant("two", np.full(1, 2, np.float32))
    one = constant("one", np.ones(1, np.int64))
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["size"]),
        helper.make_node("Concat", ["size", "one"], ["target"], axis=0),
        helper.make_node("Expand", ["size", "target"], ["rows"]),
    ]
    outputs = [tensor("doubled", "FP32", ["batch", "n"]), tensor("rows", "INT64", ["batch", 1])]
    return graph(nodes, [tensor("x", "FP32", ["batch", "n"])], outputs, [zero, one, two])


def lookup(size: int) -> onnx.ModelProto:
    """`value` (batch, 1) is ten times `index` (batch, 1); an index of `size` or more fails the whole run."""
    table = constant("table", np.arange(size, dtype=np.float32) * 10)
    node = helper.make_node("Gather", ["table", "index"], ["value"])
    ports = tensor("index", "INT64", ["batch", 1]), tensor("value", "FP32", ["batch", 1])
    return graph([node], ports[:1], ports[1:], [table])


def hungry() -> onnx.ModelProto:
    """`same` is `floats` (batch, 1), at the price of allocating as many floats as the largest of them says."""
    nodes = [
        helper.make_node("ReduceMax", ["floats"], ["largest"], keepdims=0),
        helper.make_node("Unsqueeze", ["largest", "zero"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Cast", ["nothing"], ["nothing64"], to=TensorProto.INT64),
        helper.make_node("Add", ["floats", "nothing64"], ["same"]),
    ]
    ports = tensor("floats", "INT64", ["batch", 1]), tensor("same", "INT64", ["batch", 1])
    return graph(nodes, ports[:1], ports[1:], [constant("zero", np.zeros(1, np.int64))])


def collapsing() -> onnx.ModelProto:
    """`first` is the first row of `x` (batch, n), by an operator whose output size no shape inference can know."""
    node = helper.make_node("Compress", ["x", "keep"], ["first"], axis=0)
    ports = tensor("x", "FP32", ["batch", "n"]), tensor("first", "FP32", ["kept", "n"])
    return graph([node], ports[:1], ports[1:], [constant("keep", np.array([True]))])


def biased() -> onnx.ModelProto:
    """`sum` = `x` (2, n) + `bias`, an input that has the default [1]; and `unused`, a second output."""
    nodes = [helper.make_node("Add", ["x", "bias"], ["sum"]), helper.make_node("Neg", ["x"], ["unused"])]
    inputs = [tensor("x", "FP32", [2, "n"]), tensor("bias", "FP32", [1])]
    outputs = [tensor("sum", "FP32", [2, "n"]), tensor("unused", "FP32", [2, "n"])]
    return graph(nodes, inputs, outputs, [constant("bias", np.ones(1, np.float32))])


def weighted(weights: np.ndarray) -> onnx.ModelProto:
    """`y` = `x` (batch, n) @ `weights`: a graph whose weights can be stored outside of it."""
    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    ports = tensor("x", "FP32", ["batch", weights.shape[0]]), tensor("y", "FP32", ["batch", weights.shape[1]])
    return graph([node], ports[:1], ports[1:], [constant("weights", weights)])


def save_external(model: onnx.ModelProto, path: Path) -> None:
    """Save with all weights in `weights.bin` beside the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def port(name: str, dtype: str, dims: Sequence[int], extra: str = "") -> str:
    """The inside of an `input` or `output` of a config.pbtxt."""
    triton = "STRING" if dtype == "BYTES" else dtype
    return f'name: "{name}" data_type: TYPE_{triton} dims: {list(dims)} {extra}'


def config(inputs: Sequence[str], outputs: Sequence[str], *, max_batch_size: int = 0, extra: str = "") -> str:
    """A config.pbtxt as one would write it for the native backend."""
    ports = [f"input {{ {text} }}" for text in inputs] + [f"output {{ {text} }}" for text in outputs]
    group = "" if "instance_group" in extra else "instance_group { count: 1 kind: KIND_CPU }"
    return "\n".join(['backend: "onnxruntime"', f"max_batch_size: {max_batch_size}", group, *ports, extra])


def parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'


def add_model(repository: Path, name: str, text: str, model: onnx.ModelProto | bytes | None) -> Path:
    """Write config.pbtxt and 1/model.onnx of a model; returns the version folder."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(text)
    if model is not None:
        data = model if isinstance(model, bytes) else model.SerializeToString()
        (version / "model.onnx").write_bytes(data)
    return version
