"""`python -m exporters toy`: writes the network, which has no weights."""

from __future__ import annotations

from pathlib import Path

import click
import onnx
from darkroom.pipelines.toy import networks
from onnx import TensorProto, helper

from darkroom.settings import Settings
from exporters.config import Placement, write_configs
from exporters.options import output_option

KIND, CLASSES = "Toy", ("ToyPipeline",)


@click.command()
@click.option("--checkpoint", help="Is not read: the network has no weights.")
@output_option("The model repository to write to.")
def toy(checkpoint: str | None, output: Path) -> None:
    """Export the toy family."""
    for spec in (networks.PAINT, networks.PIPELINE):
        (output / spec.name / "1").mkdir(parents=True, exist_ok=True)
    write_configs(output, (networks.PAINT, networks.PIPELINE), Placement())
    onnx.save(_network(), output / networks.PAINT.name / "1" / "model.onnx")
    click.echo("toy: exported")


COMMANDS = (toy,)


def prepare(settings: Settings, repository: Path) -> None:
    """TOY_MAX_STEPS limits the steps of the toy family."""
    toy.callback(checkpoint=None, output=repository)  # type: ignore[misc]


def _network() -> onnx.ModelProto:
    """colour (rows, 3) -> image (rows, 64, 64, 3) uint8."""
    nodes = [
        helper.make_node("Unsqueeze", ["colour", "axes"], ["pixel"]),
        helper.make_node("Expand", ["pixel", "shape"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["image"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("shape", TensorProto.INT64, [4], [1, 64, 64, 3]),
    ]
    colour = helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["rows", 3])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", 64, 64, 3])
    graph = helper.make_graph(nodes, "toy_paint", [colour], [image], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
