"""The model repository of the backend's tests: configurations that load, and such that must not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from tests.triton import onnx_models as m

# Waits until four rows are there, so that requests sent together run together on a slow machine too.
TOGETHER = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 2000000 }"


def good_models() -> dict[str, tuple[str, onnx.ModelProto]]:
    """Name: config.pbtxt and graph of the models that load."""
    x, x_out = m.port("x", "FP32", [-1]), m.port("x_out", "FP32", [-1])
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    ports = [m.port("x", "FP32", [2])], [m.port("y", "FP32", [3])]
    single = m.port("floats", "INT64", [1]), m.port("same", "INT64", [1])
    openvino = 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }'
    no_arena = m.parameter("enable_mem_arena", "0") + m.parameter("memory.enable_memory_arena_shrinkage", "cpu:0")
    fill = m.parameter("rows_by_size", "x 64:4") + m.parameter("fill_above", "1") + m.parameter("engines", "2")
    return {
        "all_types": (
            m.config(
                [m.port(name, name, [-1]) for name in m.TYPES],
                [m.port(f"{name}_out", name, [-1]) for name in m.TYPES],
                max_batch_size=8,
            ),
            m.all_types(),
        ),
        "batch": (
            m.config(
                [x],
                [m.port("doubled", "FP32", [-1]), m.port("rows", "INT64", [1])],
                max_batch_size=4,
                extra=TOGETHER,
            ),
            m.batch_size(),
        ),
        "filled": (
            m.config(
                [x],
                [m.port("doubled", "FP32", [-1]), m.port("rows", "INT64", [1])],
                max_batch_size=8,
                extra=fill,
            ),
            m.batch_size(),
        ),
        "lookup": (
            m.config(
                [m.port("index", "INT64", [1])],
                [m.port("value", "FP32", [1])],
                max_batch_size=4,
                extra=TOGETHER,
            ),
            m.lookup(10),
        ),
        "text": (
            m.config(
                [m.port("x", "BYTES", [1])],
                [m.port("x_out", "BYTES", [1])],
                max_batch_size=4,
                extra=TOGETHER,
            ),
            m.identity(("x", ["batch", 1]), dtype="BYTES"),
        ),
        "hungry": (m.config([single[0]], [single[1]], max_batch_size=4, extra=TOGETHER), m.hungry()),
        "collapsing": (m.config([x], [m.port("first", "FP32", [-1])], max_batch_size=4), m.collapsing()),
        "scalar": (m.config([m.port("x", "FP32", [1])], [m.port("x_out", "FP32", [1])]), m.identity(("x", []))),
        "optional": (
            m.config(
                [m.port("x", "FP32", [2, -1]), m.port("bias", "FP32", [1], "optional: true")],
                [m.port("sum", "FP32", [2, -1])],
            ),
            m.biased(),
        ),
        "reshaped": (
            m.config(
                [m.port("flat", "FP32", [1], "reshape { shape: [] }"), m.port("square", "FP32", [4], SQUARE)],
                [
                    m.port("flat_out", "FP32", [1], "reshape { shape: [] }"),
                    m.port("square_out", "FP32", [4], SQUARE),
                ],
                max_batch_size=4,
            ),
            m.identity(("flat", ["batch"]), ("square", ["batch", 2, 2])),
        ),
        "folder": (m.config(*ports, max_batch_size=4), m.weighted(weights)),
        "beside": (
            m.config(*ports, max_batch_size=4, extra='default_model_filename: "net.onnx"'),
            m.weighted(weights),
        ),
        "auto_batched": (m.config([], []), m.identity(("x", ["batch", "n"]), ("flat", ["batch"]))),
        "auto_fixed": (m.config([], []), m.identity(("x", [2, "n"]), ("one", []))),
        "openvino": (m.config([x], [x_out], extra=openvino), m.identity(("x", ["n"]))),
        "no_arena": (m.config([x], [x_out], extra=no_arena), m.identity(("x", ["n"]))),
        "twice": (
            m.config([x], [x_out], extra="instance_group { count: 2 }"),
            m.identity(("x", ["n"])),
        ),
    }


SQUARE = "reshape { shape: [2, 2] }"
X, X_OUT = m.port("x", "FP32", [2]), m.port("x_out", "FP32", [2])
TWO = m.identity(("x", [2]), ("z", [2]))
ONE = m.identity(("x", [2]))
DYNAMIC = m.identity(("x", ["batch", "n"]))

# Name: config.pbtxt, graph, and what the reason has to say (the tensor and the two values).
BAD_MODELS: dict[str, tuple[str, onnx.ModelProto | bytes | None, Sequence[str]]] = {
    "unknown_input": (
        m.config([m.port("a", "FP32", [2])], [X_OUT]),
        ONE,
        ["input 'a' is not in the graph", "inputs are: x"],
    ),
    "unknown_output": (
        m.config([X], [m.port("b", "FP32", [2])]),
        ONE,
        ["output 'b' is not in the graph", "outputs are: x_out"],
    ),
    "input_type": (m.config([m.port("x", "FP16", [2])], [X_OUT]), ONE, ["input 'x'", "TYPE_FP16", "TYPE_FP32"]),
    "output_type": (
        m.config([X], [m.port("x_out", "INT8", [2])]),
        ONE,
        ["output 'x_out'", "TYPE_INT8", "TYPE_FP32"],
    ),
    "rank": (m.config([m.port("x", "FP32", [2, 1])], [X_OUT]), ONE, ["input 'x'", "[2, 1]", "has [2]"]),
    "size": (m.config([m.port("x", "FP32", [3])], [X_OUT]), ONE, ["input 'x'", "[3]", "has [2]"]),
    "wider_than_graph": (m.config([m.port("x", "FP32", [-1])], [X_OUT]), ONE, ["input 'x'", "[-1]", "has [2]"]),
    "narrower_output": (
        m.config([m.port("x", "FP32", [7])], [m.port("x_out", "FP32", [7])]),
        m.identity(("x", ["n"])),
        ["output 'x_out'", "[7]", "has [-1]"],
    ),
    "fixed_batch": (
        m.config([m.port("x", "FP32", [2])], [m.port("x_out", "FP32", [2])], max_batch_size=2),
        m.identity(("x", [1, 2])),
        ["input 'x'", "max_batch_size", "[1, 2]"],
    ),
    "batched_scalar": (
        m.config([m.port("x", "FP32", [1])], [m.port("x_out", "FP32", [1])], max_batch_size=2),
        m.identity(("x", [])),
        ["input 'x'", "max_batch_size", "[]"],
    ),
    "too_few_inputs": (m.config([X], [X_OUT]), TWO, ["1 required inputs (x)", "has 2 (x, z)"]),
    "batched_optional": (
        m.config([m.port("x", "FP32", [-1], "optional: true")], [m.port("x_out", "FP32", [-1])], max_batch_size=2),
        DYNAMIC,
        ["optional input 'x'", "max_batch_size"],
    ),
    "not_exported": (
        m.config([X], [X_OUT]),
        None,
        ["'not_exported/1/model.onnx' is not in the model repository", "has not been exported"],
    ),
    "corrupt": (m.config([X], [X_OUT]), b"no protobuf", ["Load model from corrupt/1/model.onnx failed"]),
    "auto_unbatchable": (
        m.config([], [], max_batch_size=4),
        m.identity(("x", [2, "n"])),
        ["max_batch_size is 4", "'x' has shape [2, -1]"],
    ),
    "bad_mode": (
        m.config([X], [X_OUT], extra=m.parameter("execution_mode", "2")),
        ONE,
        ["execution_mode is '2'", "0, 1"],
    ),
    "bad_threads": (
        m.config([X], [X_OUT], extra=m.parameter("intra_op_thread_count", "many")),
        ONE,
        ["intra_op_thread_count is 'many'"],
    ),
    "bad_engines": (
        m.config([X], [X_OUT], extra=m.parameter("engines", "a few")),
        ONE,
        ["engines is 'a few'"],
    ),
    "bad_accelerator": (
        m.config(
            [X],
            [X_OUT],
            extra='optimization { execution_accelerators { cpu_execution_accelerator { name: "abacus" } } }',
        ),
        ONE,
        ["'abacus'", "openvino"],
    ),
    "custom_operators": (
        m.config([X], [X_OUT], extra='model_operations { op_library_filename: "no_such_library.so" }'),
        ONE,
        ["no_such_library.so"],
    ),
    "sequences": (
        m.config([m.port("x", "FP32", [-1])], [m.port("x_out", "FP32", [-1])], extra="sequence_batching { }"),
        m.identity(("x", ["n"])),
        ["'sequence_batching' is not supported"],
    ),
    "decoupled": (
        m.config([X], [X_OUT], extra="model_transaction_policy { decoupled: true }"),
        ONE,
        ["decoupled"],
    ),
}


# Models whose weights stand in a file of their own, and where their graph stands in the version folder.
EXTERNAL = {"folder": "model.onnx/model.onnx", "beside": "net.onnx"}


def write_repository(repository: Path) -> None:
    """Write every model, good and bad."""
    for name, (text, model) in good_models().items():
        version = m.add_model(repository, name, text, None if name in EXTERNAL else model)
        if name in EXTERNAL:
            m.save_external(model, version / EXTERNAL[name])
    for name, (text, broken, _) in BAD_MODELS.items():
        m.add_model(repository, name, text, broken)
