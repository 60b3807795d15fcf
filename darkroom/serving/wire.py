"""Tensors as a model server carries them: arrays of plain values, strings as bytes, checked against the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from darkroom.errors import InvalidInput
from darkroom.serving.networks import Array, Tensors

_DTYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}


def as_array(value: Any) -> Array:
    """Return an array unchanged; a plain str, int or float as an array of one element (STRING, INT32, FP32)."""
    scalars = {str: np.object_, int: np.int32, float: np.float32}
    return value if isinstance(value, np.ndarray) else np.array([value], scalars[type(value)])


def as_bytes(array: Array) -> Array:
    """Encode an array of strings as bytes, as a server carries them; other arrays stay as they are."""
    if array.dtype != np.object_:
        return array
    flat = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1)]
    return np.array(flat, np.object_).reshape(array.shape)


def check_inputs(entries: Iterable[Mapping[str, Any]], inputs: Tensors, max_batch_size: int) -> None:
    """Check inputs against a model's config.

    :param entries: the inputs of the config, as parsed JSON.
    :param max_batch_size: of the config; above 0, the first dimension of every input is the batch.
    :raises InvalidInput: names the input.
    """
    known = {entry["name"]: entry for entry in entries}
    for name in inputs:
        if name not in known:
            raise InvalidInput(f"{name} is no input of this model; it has: {', '.join(known)}.", param=name)
    for name, entry in known.items():
        if name in inputs:
            _check_input(entry, inputs[name], batching=max_batch_size > 0)
        elif not entry.get("optional"):
            raise InvalidInput(f"{name} is missing.", param=name)
    rows = {array.shape[0] for array in inputs.values()} if max_batch_size > 0 else {1}
    if len(rows) > 1 or not 1 <= min(rows) <= max(1, max_batch_size):
        raise InvalidInput(f"The inputs must have the same 1 to {max_batch_size} rows; got {sorted(rows)}.")


def _check_input(entry: Mapping[str, Any], array: Array, *, batching: bool) -> None:
    name, dtype = entry["name"], _DTYPES.get(entry["data_type"])
    if array.dtype != dtype:
        raise InvalidInput(f"{name} must be {entry['data_type'][5:]}; got {array.dtype}.", param=name)
    dims = [*([-1] if batching else []), *map(int, entry["dims"])]
    fits = len(dims) == array.ndim and all(d in (-1, n) for d, n in zip(dims, array.shape, strict=True))
    if not fits:
        raise InvalidInput(f"{name} must have shape {dims} (-1: any size); got {list(array.shape)}.", param=name)
