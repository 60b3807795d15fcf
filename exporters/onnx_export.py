"""torch module -> ONNX, quietly, without traces of the machine; and the comparison of the two."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# The one that torch's exporter writes without converting; ONNX Runtime >= 1.14 and TensorRT >= 8.6 read it.
OPSET = 18


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far an export is from its original.

    :param maximum: the largest absolute difference of any value; infinite when shapes or types differ.
    :param share: the share of values (0..1) that differ at all.
    """

    maximum: float
    share: float


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's prints, log lines and warnings off the terminal; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_onnx(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    dynamic: Mapping[int, str],
    input_name: str,
    output_name: str,
) -> bytes:
    """A module of one input and one output as a single-file ONNX model of opset 18.

    :param example: an input; its dynamic dimensions must be larger than 1, or they are taken for constants.
    :param dynamic: names of the dynamic dimensions, by index; every one may be 1 or more.
    """
    with quiet():
        import torch

        shapes = {index: torch.export.Dim(name, min=1, max=2**16) for index, name in dynamic.items()}
        with torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=[input_name],
                output_names=[output_name],
                opset_version=OPSET,
                verbose=False,
            )
    assert program is not None
    return strip(program.model_proto)


def strip(model: Any) -> bytes:
    """Serialise an onnx.ModelProto without the stack traces, file names and shapes that the exporter notes down."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    data: bytes = model.SerializeToString()
    return data


def compare(
    model: bytes,
    original: Callable[[NDArray[np.uint8]], NDArray[Any]],
    inputs: Iterable[NDArray[np.uint8]],
) -> Difference:
    """Run an ONNX model of one input and one output on the CPU beside its original."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    maximum, different, values = 0.0, 0, 0
    for batch in inputs:
        ours, theirs = session.run(None, {name: batch})[0], original(batch)
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return Difference(maximum=np.inf, share=1.0)
        distance = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        maximum = max(maximum, float(distance.max()))
        different += int(np.count_nonzero(distance))
        values += distance.size
    return Difference(maximum=maximum, share=different / values)
