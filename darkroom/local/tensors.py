"""Tensors and parameters between the messages of Triton's inference protocol and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import (
    InferenceServerException,
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from darkroom.errors import InvalidInput
from darkroom.serving.networks import Array

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where a tensor of each type has its values if it does not send them raw."""


def inputs_of(request: Any) -> dict[str, Array]:
    """The inputs of a ModelInferRequest by name, with strings as bytes.

    :raises InvalidInput: a type that is not supported, or values that do not fit the shape; names the input.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"The request has {len(request.inputs)} inputs, but {len(raw)} raw contents.")
    return {tensor.name: _array(tensor, raw[index] if raw else None) for index, tensor in enumerate(request.inputs)}


def _array(tensor: Any, raw: bytes | None) -> Array:
    dtype = triton_to_np_dtype(tensor.datatype)
    if dtype is None or tensor.datatype == "BF16" or (raw is None and tensor.datatype not in _CONTENTS):
        why = f"{tensor.name} has the type {tensor.datatype!r}, which is not supported."
        raise InvalidInput(why, param=tensor.name)
    if "shared_memory_region" in tensor.parameters:
        raise InvalidInput("Shared memory is not offered by the local engine; send the values.", param=tensor.name)
    try:
        if raw is None:
            values = np.array(list(getattr(tensor.contents, _CONTENTS[tensor.datatype])), dtype)
        elif tensor.datatype == "BYTES":
            values = deserialize_bytes_tensor(raw)
        else:
            values = np.frombuffer(raw, dtype)
        return values.reshape(tuple(tensor.shape))
    except (ValueError, IndexError, OverflowError, InferenceServerException) as error:
        why = f"{tensor.name} does not have the values of the shape {list(tensor.shape)}."
        raise InvalidInput(why, param=tensor.name) from error


def add_outputs(response: Any, outputs: Mapping[str, Array]) -> None:
    """Put arrays into a ModelInferResponse."""
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        response.raw_output_contents.append(_bytes(array))


def _bytes(array: Array) -> bytes:
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).tobytes()
    packed = serialize_byte_tensor(array)
    return bytes(packed.item()) if packed.size else b""


def text_parameter(request: Any, name: str) -> str:
    """A parameter of a request as text; "" where it has none."""
    return str(request.parameters[name].string_param) if name in request.parameters else ""


def flag_parameter(request: Any, name: str) -> bool:
    """A parameter of a request that is true or false; False where it has none."""
    return bool(request.parameters[name].bool_param) if name in request.parameters else False


def empty_response(request: Any) -> Any:
    """A ModelInferResponse to a request, without outputs."""
    return service_pb2.ModelInferResponse(
        model_name=request.model_name, model_version=request.model_version or "1", id=request.id
    )
