"""ONNX Runtime's operator for attention in our graphs, and its replacement for engines that do not have it."""

from __future__ import annotations

from typing import Any

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"


def spell_out(model: Any) -> None:
    """Replace every MultiHeadAttention of an onnx.ModelProto by operators of ONNX itself, in place.

    TensorRT does not have the operator, but compiles the pattern to a fused kernel. Weights are not read, so they may
    be outside the model.
    """
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    nodes = []
    for node in graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            nodes += _spelled_out(node, _type(node.input[0], producers, types))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _type(name: str, producers: dict[str, Any], types: dict[str, int]) -> int:
    """The type of a tensor that a projection has made: that of the projection's weights."""
    while name not in types:
        node = producers[name]
        name = next((i for i in node.input if i in types), node.input[0])
    return types[name]


def _spelled_out(attention: Any, data_type: int) -> list[Any]:
    """query (B, S, N * d), key and value (B, T, N * d) -> (B, S, N * d), with N heads."""
    from onnx import TensorProto, helper

    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in attention.attribute}
    out = attention.output[0]
    made = []

    def add(operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        result = name if name == out else f"{out}/{name}"
        made.append(helper.make_node(operator, inputs, [result], name=f"{out}/{name}", **attributes))
        return result

    def constant(name: str, kind: int, values: list[float], dims: list[int]) -> str:
        return add("Constant", name=name, value=helper.make_tensor(name, kind, dims, values))

    split = constant("split", TensorProto.INT64, [0, 0, settings["num_heads"], -1], [4])
    merged = constant("merged", TensorProto.INT64, [0, 0, -1], [3])
    scale = constant("scale", data_type, [settings["scale"]], [])
    orders = {"query": (0, 2, 1, 3), "key": (0, 2, 3, 1), "value": (0, 2, 1, 3)}
    parts = {}
    for (part, order), given in zip(orders.items(), attention.input, strict=False):
        heads = add("Reshape", given, split, name=f"{part}_split")
        parts[part] = add("Transpose", heads, name=part, perm=order)
    scores = add("MatMul", add("Mul", parts["query"], scale, name="scaled"), parts["key"], name="scores")
    attended = add("MatMul", add("Softmax", scores, name="shares", axis=-1), parts["value"], name="attended")
    add("Reshape", add("Transpose", attended, name="rows", perm=(0, 2, 1, 3)), merged, name=out)
    return made
