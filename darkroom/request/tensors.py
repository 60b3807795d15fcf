"""Converts a request to the inputs of its Triton model."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from darkroom.request.request import Request, kind_of
from darkroom.serving.networks import Array, DType, TensorSpec

_DTYPES: dict[type, DType] = {str: "STRING", int: "INT32", float: "FP32", bool: "BOOL", bytes: "UINT8", tuple: "STRING"}
_NUMPY: dict[str, Any] = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}


def triton_inputs(kind: type[Request]) -> tuple[TensorSpec, ...]:
    """The inputs of a pipeline, in the order of the fields: one element each, bytes for an image, and an element for
    each of several images."""
    return tuple(
        TensorSpec(
            name=name,
            dtype=_dtype(kind, name),
            dims=(-1,) if kind_of(kind, name) in (bytes, tuple) else (1,),
            optional=not (about.needed or kind.model_fields[name].is_required()),
            help=about.help,
        )
        for name, about in kind.fields().items()
        if about.input
    )


def to_tensors(request: Request) -> dict[str, Array]:
    """Return the inputs for the fields that were given; the model has the same defaults for the others."""
    kind = type(request)
    return {
        name: _tensor(getattr(request, name), _dtype(kind, name))
        for name, about in kind.fields().items()
        if about.input and name in request.model_fields_set and getattr(request, name) is not None
    }


def _dtype(kind: type[Request], name: str) -> DType:
    return cast(DType, kind.fields()[name].dtype) or _DTYPES[kind_of(kind, name)]


def _tensor(value: Any, dtype: DType) -> Array:
    if dtype == "UINT8":
        return np.frombuffer(value, np.uint8)
    if isinstance(value, tuple):
        return np.array(value, np.object_)
    if dtype == "STRING":
        return np.array([value], np.object_)
    return np.array([value], _NUMPY[dtype])
