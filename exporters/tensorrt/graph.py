"""Reads the facts that an engine's plan needs from a model.onnx, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters.errors import ExportError
from exporters.graphs.fused_attention import spell_out

EnginePrecision = Literal["fp32", "fp16", "bf16"]
Dims = tuple[int | None, ...]
"""The sizes of a tensor; None for dynamic ones."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A model.

    :param inputs: the dims of each input, including the batch. A size that the interface leaves open but the weights
        fix (the width of the prompt's embeddings) counts as fixed; the exporter stores it in the model's metadata.
    :param precision: the type of most of its floating-point weights.
    """

    inputs: Mapping[str, Dims]
    precision: EnginePrecision


def read_graph(path: Path) -> Graph:
    """Read a model.onnx; a model.onnx.data beside it is not read.

    :raises ExportError: the file is missing, or not an ONNX model.
    """
    model = _load(path)
    graph = model.graph
    sizes = {entry.key: int(entry.value) for entry in model.metadata_props if entry.value.isdecimal()}
    return Graph(inputs={value.name: _dims(sizes, value) for value in graph.input}, precision=_precision(graph))


def for_tensorrt(path: Path) -> bytes:
    """A model.onnx, still without the weights beside it, as TensorRT wants it.

    It takes 8-bit inputs, but a Cast has to be the first that happens to them. Ours are transposed first, which moves
    a quarter of the bytes, so the two change places; the result is the same. ONNX Runtime's operator for attention,
    which it does not know, is spelled out.

    :raises ExportError: as `read_graph`.
    """
    from onnx import TensorProto

    model = _load(path)
    spell_out(model)
    bytes_in = {v.name for v in model.graph.input if v.type.tensor_type.elem_type == TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type != "Transpose" or node.input[0] not in bytes_in:
            continue
        readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
        if len(readers) == 1 and readers[0].op_type == "Cast":
            cast, permutation = readers[0], list(node.attribute)
            node.op_type, cast.op_type = "Cast", "Transpose"
            del node.attribute[:]
            node.attribute.extend(cast.attribute)
            del cast.attribute[:]
            cast.attribute.extend(permutation)
    content: bytes = model.SerializeToString()
    return content


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise ExportError(f"{path} is not there; export the network first.") from None
    except (OSError, DecodeError) as error:
        raise ExportError(f"{path} cannot be read as an ONNX model: {error}.") from None


def _dims(sizes: Mapping[str, int], value: Any) -> Dims:
    return tuple(
        d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param) for d in value.type.tensor_type.shape.dim
    )


def _precision(graph: Any) -> EnginePrecision:
    from onnx import TensorProto

    names: dict[int, EnginePrecision] = {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.BFLOAT16: "bf16",
    }
    counts: dict[EnginePrecision, int] = dict.fromkeys(names.values(), 0)
    for tensor in graph.initializer:
        if tensor.data_type in names:
            size = 1
            for length in tensor.dims:
                size *= length
            counts[names[tensor.data_type]] += size
    return max(counts, key=lambda precision: counts[precision])
