"""torch module -> ONNX, quietly, without traces of the machine; and the comparison of the two."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.serving.networks import Array, Tensors

if TYPE_CHECKING:
    import onnx_ir
    import torch

# The one that torch's exporter writes without converting; ONNX Runtime >= 1.14 and TensorRT >= 8.6 read it.
OPSET = 18
MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
LARGEST_SINGLE_FILE = 256 * 2**20
"""Bytes of weights; above it they lie in a file of their own. Writing one file takes copies of all weights in memory,
and more than 2 GB do not go into one at all."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far an export is from its original.

    :param maximum: the largest absolute difference of any value; infinite when shapes or types differ.
    :param share: the share of values (0..1) that differ at all.
    :param largest: the largest absolute value of the original.
    :param values: how many values were compared.
    """

    maximum: float
    share: float
    largest: float
    values: int

    @property
    def relative(self) -> float:
        """`maximum` as a share of the largest value."""
        return self.maximum / self.largest if self.largest else self.maximum


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


def dimension(name: str, *, minimum: int = 1, maximum: int = 2**16) -> Any:
    """A dynamic dimension for `export_onnx`; multiples of one are `8 * dimension("height")`.

    :param minimum: the smallest size that the tracer can reason about; it is no limit of the graph. Where it is too
        small, a side that is halved to 1 for example, everything is traced once more.
    """
    with quiet():
        import torch

    return torch.export.Dim(name, min=minimum, max=maximum)


def export_onnx(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    *,
    dynamic: Mapping[str, Mapping[int, Any]],
    outputs: Sequence[str],
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> onnx_ir.Model:
    """A module as an ONNX model of opset 18, whose weights still lie in torch's memory: `to_bytes` or `save` it.

    :param inputs: an example of each input, in the order of the module's arguments; dynamic dimensions must be larger
        than 1, or they are taken for constants.
    :param dynamic: each input's dynamic dimensions, by index, as `dimension` makes them.
    :param translations: how to write operators of our own in ONNX.
    """
    with quiet():
        import torch

        with torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=tuple(dict(dynamic[name]) for name in inputs),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                custom_translation_table=dict(translations or {}),
                verbose=False,
            )
    assert program is not None
    return strip(program.model)


def strip(model: onnx_ir.Model) -> onnx_ir.Model:
    """Take off the stack traces, file names and inner shapes that the exporter notes down."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    interface = {*model.graph.inputs, *model.graph.outputs}
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in interface:
                value.type = value.shape = None
    for value in (*interface, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    return model


def to_bytes(model: onnx_ir.Model) -> bytes:
    """A small model as one file."""
    import onnx_ir

    data: bytes = onnx_ir.to_proto(model).SerializeToString()
    return data


def save(model: onnx_ir.Model, folder: Path) -> list[Path]:
    """Write `folder`/model.onnx, and the weights of a large model to model.onnx.data beside it, tensor by tensor.

    :returns: the files, weights first: who installs them one after another leaves no model without its weights.
    :raises OSError: the folder cannot be written.
    """
    import onnx_ir

    model_path, data_path = folder / MODEL_NAME, folder / DATA_NAME
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size <= LARGEST_SINGLE_FILE:
        model_path.write_bytes(to_bytes(model))
        return [model_path]
    onnx_ir.save(model, model_path, external_data=DATA_NAME)
    return [data_path, model_path]


def compare(model: bytes | Path, cases: Iterable[tuple[Tensors, Tensors]]) -> dict[str, Difference]:
    """Run an ONNX model on the CPU beside its original.

    :param cases: inputs, and what the original makes of them.
    :returns: the difference over all cases, by output.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    given = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: dict[str, list[Difference]] = {name: [] for name in names}
    for inputs, expected in cases:
        for name, ours in zip(names, session.run(names, dict(inputs)), strict=True):
            found[name].append(difference(ours, expected[name]))
    return {name: joined(parts) for name, parts in found.items()}


def difference(ours: Array, theirs: Array) -> Difference:
    """The difference of two arrays."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Difference(maximum=np.inf, share=1.0, largest=1.0, values=theirs.size)
    distance = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    worst = float(distance.max())
    return Difference(
        maximum=worst if np.isfinite(worst) else np.inf,
        share=float(np.count_nonzero(distance)) / distance.size,
        largest=float(np.abs(theirs).max()),
        values=distance.size,
    )


def joined(parts: Sequence[Difference]) -> Difference:
    """One difference for several."""
    values = sum(part.values for part in parts)
    return Difference(
        maximum=max(part.maximum for part in parts),
        share=sum(part.share * part.values for part in parts) / values,
        largest=max(part.largest for part in parts),
        values=values,
    )
