"""A network's second graph, which takes LoRAs: `lora.onnx` and `lora.json` beside model.onnx.

Both graphs come of one trace. In it each module that LoRAs can change is marked (`exporters.graphs.lora`). The plain
graph is the trace without its marks; the second one has the arithmetic of `darkroom.serving.lora_layout` in their
place. Where the weights lie in a file of their own, both read that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.serving.lora_layout import DOWN, FILE_NAME, GRAPH_NAME, INDEX, SCALE, UP, LoraLayout, LoraTarget
from darkroom.serving.networks import Array
from exporters import onnx_export

if TYPE_CHECKING:
    import onnx_ir

DOMAIN, OPERATOR = "darkroom", "LoraPoint"
"""The mark: inputs x and y of a module, attribute `target`, its number in the layout."""


@dataclass(frozen=True, kw_only=True)
class LoraPart:
    """Which part of a network takes LoRAs.

    :param component: its part of the checkpoint, by which LoRA files name it: "unet", "text_encoder".
    :param attribute: of the served module, which holds this part.
    :param within: all linear layers and 1x1 convolutions whose name in the part matches this pattern take LoRAs.
    :param prefix: what all names in files begin with; some versions of transformers leave it out of a module's name.
    """

    component: str
    attribute: str
    within: str
    prefix: str = ""

    def full(self, name: str) -> str:
        """The name in files of a module of the part."""
        return name if name.startswith(self.prefix) else self.prefix + name


@dataclass(frozen=True)
class _Point:
    """A module in the graph: what it is given and what it makes of that."""

    target: LoraTarget
    given: onnx_ir.Value
    result: onnx_ir.Value


@dataclass(frozen=True, kw_only=True)
class LoraPoints:
    """The modules of a graph that LoRAs can change; those of `layout` that are not in the graph change nothing."""

    layout: LoraLayout
    points: tuple[_Point, ...]


def take_marks(model: onnx_ir.Model, layout: LoraLayout) -> LoraPoints:
    """Take the marks out of a traced network.

    A module without a mark changes none of the outputs, as the last layer of an encoder whose state before that layer
    is read. Its matrices have their place in the layout all the same: files have them.

    :raises ValueError: a module of the layout has several marks: it is called more than once.
    """
    graph, found = model.graph, {}
    marks = [node for node in graph if (node.domain, node.op_type) == (DOMAIN, OPERATOR)]
    for node in marks:
        given, result = node.inputs
        assert given is not None
        assert result is not None
        target = layout.targets[node.attributes["target"].as_int()]
        found[target.name] = _Point(target, given, result)
        node.outputs[0].replace_all_uses_with(result)
        graph.remove(node, safe=True)
    model.opset_imports.pop(DOMAIN, None)
    if len(marks) != len(found):
        raise ValueError(f"{len(marks)} calls of {len(found)} of the {len(layout.targets)} modules were traced")
    in_order = (found[target.name] for target in layout.targets if target.name in found)
    return LoraPoints(layout=layout, points=tuple(in_order))


def save(model: onnx_ir.Model, points: LoraPoints, folder: Path) -> list[Path]:
    """Write lora.onnx and lora.json beside the saved plain graph, and leave `model` with the LoRAs in it.

    :param model: as `take_marks` left it, and as it was saved in `folder`.
    :raises OSError: the folder cannot be written.
    """
    import onnx_ir

    _Writer(model, points).write()
    plain = onnx_ir.load(folder / onnx_export.MODEL_NAME)
    for name, value in plain.graph.initializers.items():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            model.graph.initializers[name].const_value = value.const_value
    files = [folder / GRAPH_NAME, folder / FILE_NAME]
    onnx_ir.save(model, files[0])
    files[1].write_text(points.layout.to_json())
    return files


class _Writer:
    """Adds the inputs of LoRAs to a graph, and what each module has to do with them."""

    def __init__(self, model: onnx_ir.Model, points: LoraPoints) -> None:
        import onnx_ir

        self._ir = onnx_ir
        self._graph = model.graph
        self._points = points
        self._kind = getattr(onnx_ir.DataType, points.layout.dtype.upper().replace("FLOAT32", "FLOAT"))
        self._made: list[onnx_ir.Node] = []
        self._constants: dict[tuple[int, ...], onnx_ir.Value] = {}
        self._name = ""

    def write(self) -> None:
        """Change the graph."""
        index, scale, down, up = self._inputs()
        self._name = "lora"
        if self._kind != self._ir.DataType.FLOAT:
            scale = self._add("Cast", scale, to=int(self._kind))
        factors = self._add("Unsqueeze", scale, self._numbers(2))  # (rows, rank, 1)
        # The factors into the matrices, once, and not into what every module makes of its tokens.
        self._downs = self._add("Mul", self._add("Gather", down, index, axis=0), factors)
        self._ups = self._add("Gather", up, index, axis=0)
        self._graph.insert_before(self._graph[0], self._take())
        for point in self._points.points:
            self._name = f"lora/{point.target.name}"
            users = list(point.result.uses())
            changed = self._conv(point) if point.target.kind == "conv" else self._linear(point)
            for user, at in users:
                user.replace_input_with(at, changed)
            producer = point.result.producer()
            assert producer is not None
            self._graph.insert_after(producer, self._take())

    def _inputs(self) -> tuple[onnx_ir.Value, ...]:
        ir, layout = self._ir, self._points.layout
        shapes = {
            INDEX: (ir.DataType.INT64, ["lora_rows"]),
            SCALE: (ir.DataType.FLOAT, ["lora_rows", "rank"]),
            DOWN: (self._kind, ["slots", "rank", layout.in_features]),
            UP: (self._kind, ["slots", layout.out_features, "rank"]),
        }
        values = tuple(
            ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))
            for name, (kind, shape) in shapes.items()
        )
        self._graph.inputs.extend(values)
        return values

    def _linear(self, point: _Point) -> onnx_ir.Value:
        """x (rows, tokens, in) -> (rows, tokens, out)."""
        down, up = self._matrices(point.target)
        low = self._add("MatMul", point.given, self._add("Transpose", down, perm=[0, 2, 1]))
        change = self._add("MatMul", low, self._add("Transpose", up, perm=[0, 2, 1]))
        return self._add("Add", point.result, change)

    def _conv(self, point: _Point) -> onnx_ir.Value:
        """x (rows, in, height, width) -> (rows, out, height, width)."""
        down, up = self._matrices(point.target)
        pixels = self._add("Reshape", point.given, self._numbers(0, 0, -1))
        change = self._add("MatMul", up, self._add("MatMul", down, pixels))
        return self._add("Add", point.result, self._add("Reshape", change, self._add("Shape", point.result)))

    def _matrices(self, target: LoraTarget) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """(rows, rank, in) and (rows, out, rank) of one module."""
        return self._slice(self._downs, target.columns, axis=2), self._slice(self._ups, target.lines, axis=1)

    def _slice(self, value: onnx_ir.Value, part: slice, *, axis: int) -> onnx_ir.Value:
        return self._add("Slice", value, self._numbers(part.start), self._numbers(part.stop), self._numbers(axis))

    def _numbers(self, *numbers: int) -> onnx_ir.Value:
        """Whole numbers as a constant of the graph."""
        if numbers not in self._constants:
            name = f"lora_numbers_{len(self._constants)}"
            value = self._ir.Value(name=name, const_value=self._ir.tensor(np.array(numbers, np.int64), name=name))
            value.type, value.shape = self._ir.TensorType(self._ir.DataType.INT64), self._ir.Shape([len(numbers)])
            self._graph.register_initializer(value)
            self._constants[numbers] = value
        return self._constants[numbers]

    def _add(self, operator: str, *inputs: onnx_ir.Value, **attributes: Any) -> onnx_ir.Value:
        name = f"{self._name}/{operator}_{len(self._made)}"
        node = self._ir.node(operator, inputs, attributes, name=name)
        node.outputs[0].name = name
        self._made.append(node)
        result: onnx_ir.Value = node.outputs[0]
        return result

    def _take(self) -> list[onnx_ir.Node]:
        made, self._made = self._made, []
        return made


def random_matrices(layout: LoraLayout, rank: int, random: np.random.Generator) -> dict[str, tuple[Array, Array]]:
    """A LoRA that changes every module by about a tenth: down (rank, in) and up (out, rank), float32."""
    return {
        target.name: (
            (random.normal(size=(rank, target.in_features)) / np.sqrt(target.in_features)).astype(np.float32),
            (random.normal(size=(target.out_features, rank)) / np.sqrt(rank) * 0.1).astype(np.float32),
        )
        for target in layout.targets
    }


def flat_matrices(layout: LoraLayout, slots: list[Mapping[str, tuple[Array, Array]]], rank: int) -> tuple[Array, Array]:
    """The graph's inputs `lora_down` and `lora_up` for LoRAs of this rank; slot 0 is zeros, the first LoRA slot 1."""
    down = np.zeros((len(slots) + 1, rank, layout.in_features), layout.dtype)
    up = np.zeros((len(slots) + 1, layout.out_features, rank), layout.dtype)
    for slot, matrices in enumerate(slots, start=1):
        for name, (one_down, one_up) in matrices.items():
            target = layout.by_name[name]
            down[slot, :, target.columns] = one_down
            up[slot, target.lines] = one_up
    return down, up
