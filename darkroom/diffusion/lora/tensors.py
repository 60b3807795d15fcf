"""A safetensors file in memory: its tensors as numpy arrays, also of types that numpy does not have.

The safetensors package reads no bfloat16 and no 8-bit floats into numpy, and its errors do not name the tensor.
The format: https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from darkroom.diffusion.lora.pack import Matrix
from darkroom.errors import InvalidInput, TooLarge
from darkroom.request.fields import shown

MAX_HEADER = 16 * 2**20
"""Bytes. The names of ten thousand tensors are about one megabyte."""
MAX_TENSORS = 50_000
MAX_NAME = 1000
"""Characters of the name of a tensor."""
_MOST_DIMENSIONS, _LARGEST = 8, 2**40
"""Dimensions of a tensor, and the largest product of its sides, those of length 0 left out."""
_LENGTH = 8
_METADATA = "__metadata__"
_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of a number of each type."""
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor as the file has it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The tensors of a file by name, in the order of their header, and the metadata."""

    data: memoryview
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def array(self, name: str) -> Matrix:
        """One tensor as float32.

        :raises InvalidInput: it has values that are not finite, or a type that is no number.
        """
        stored = self.tensors[name]
        with np.errstate(over="ignore"):
            values = _decoded(self.data[stored.start : stored.end], stored.dtype, name).reshape(stored.shape)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise damaged(f"{quoted(name)} has {bad:,} values of {values.size:,} that are NaN or infinite.")
        return values


def quoted(name: str) -> str:
    """The name of a tensor for messages, which needs all of its characters, and in one line."""
    return shown(name, 200)


def damaged(message: str) -> InvalidInput:
    """The error for a file whose content is at fault."""
    return InvalidInput(f"The LoRA file cannot be used: {message}", param="file")


def open_tensors(data: bytes) -> TensorFile:
    """Read the header and check that it describes the file completely. No tensor is decoded.

    :raises TooLarge: of the header.
    :raises InvalidInput: it is not a safetensors file, or one that is damaged or cut short.
    """
    if len(data) < _LENGTH:
        raise damaged(f"it is not a safetensors file; it has only {len(data)} bytes.")
    length = int.from_bytes(data[:_LENGTH], "little")
    if data[_LENGTH : _LENGTH + 1] not in (b"{", b""):
        raise damaged("it is not a safetensors file. Files of torch (.pt, .ckpt, .bin) have to be converted first.")
    if length > MAX_HEADER:
        raise TooLarge(
            f"The header of the LoRA file must be at most {MAX_HEADER:,} bytes; got {length:,}.", param="file"
        )
    if _LENGTH + length > len(data):
        raise damaged(f"it is cut short: its header has {length:,} bytes, and the file {len(data):,}.")
    header = _header(data[_LENGTH : _LENGTH + length])
    metadata = _metadata(header.pop(_METADATA, None))
    if len(header) > MAX_TENSORS:
        raise TooLarge(f"A LoRA file must have at most {MAX_TENSORS:,} tensors; got {len(header):,}.", param="file")
    body = memoryview(data)[_LENGTH + length :]
    tensors = {name: _stored(name, entry) for name, entry in header.items()}
    _check_places(tensors, len(body))
    return TensorFile(data=body, tensors=tensors, metadata=metadata)


def _header(raw: bytes) -> dict[str, Any]:
    """The header's JSON.

    :raises InvalidInput: it is no object, or names a tensor twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise damaged(f"its header names {quoted(twice)} twice.")
        return found

    try:
        header = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise damaged("it is not a safetensors file; its header is no JSON.") from None
    if not isinstance(header, dict):
        raise damaged("it is not a safetensors file; its header is no JSON object.")
    return header


def _metadata(raw: object) -> dict[str, str]:
    """Texts by name; anything else in it is left out."""
    if not isinstance(raw, dict):
        return {}
    return {name: value for name, value in raw.items() if isinstance(value, str)}


def _stored(name: str, entry: object) -> Stored:
    """One entry of the header.

    :raises InvalidInput: it is not one, or its type is not known.
    """
    if len(name) > MAX_NAME:
        raise damaged(f"the name of a tensor has {len(name):,} characters; at most {MAX_NAME:,} are read.")
    if not isinstance(entry, dict):
        raise damaged(f"the entry of {quoted(name)} in its header is {shown(entry)}.")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise damaged(f"{quoted(name)} has the type {shown(dtype)}, which is not supported.")
    if not _wholes(shape, _MOST_DIMENSIONS) or not _wholes(offsets, 2) or len(offsets) != 2:
        raise damaged(f"{quoted(name)} has no valid shape or place in its header.")
    if prod(side or 1 for side in shape) > _LARGEST:
        raise damaged(f"{quoted(name)} has the shape {shown(shape)}, which is too large.")
    start, end = offsets
    if end - start != prod(shape) * _SIZES[dtype]:
        raise damaged(f"{quoted(name)} does not have as many bytes as its shape and type need.")
    return Stored(dtype=dtype, shape=tuple(shape), start=start, end=end)


def _wholes(value: object, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of at most so many whole numbers from 0 to 2^63."""
    if not isinstance(value, list) or len(value) > most:
        return False
    return all(type(number) is int and 0 <= number < 2**63 for number in value)


def _check_places(tensors: Mapping[str, Stored], size: int) -> None:
    """Tensors must cover the file without gaps and without sharing bytes, as the format demands.

    :raises InvalidInput: they do not.
    """
    at = 0
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if stored.end > size:
            raise damaged(f"it is cut short: {quoted(name)} ends at byte {stored.end:,} of {size:,}.")
        if stored.start != at:
            raise damaged(
                f"{quoted(name)} begins at byte {stored.start:,} and not at {at:,}, where the one before ends."
            )
        at = stored.end
    if at != size:
        raise damaged(f"it has {size - at:,} bytes after its last tensor.")


def _decoded(raw: memoryview, dtype: str, name: str) -> Matrix:
    """Numbers as float32, in one dimension.

    :raises InvalidInput: the type is no number.
    """
    if dtype in _NUMPY:
        return np.frombuffer(raw, _NUMPY[dtype]).astype(np.float32)
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _eight_bits(dtype)[np.frombuffer(raw, np.uint8)]
    raise damaged(f"{quoted(name)} has the type {dtype}, which is no number.")


@cache
def _eight_bits(dtype: str) -> Matrix:
    """The 256 values of an 8-bit float (https://arxiv.org/abs/2209.05433); E4M3 has no infinity."""
    codes: NDArray[np.int64] = np.arange(256)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    exponent, fraction = (codes >> 3) & 15, (codes & 7) / 8
    size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    size = np.where((codes & 127) == 127, np.nan, size)
    return np.where(codes >= 128, -size, size).astype(np.float32)
