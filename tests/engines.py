"""Small real ONNX models with the interface of a network's spec, and engines beside them that only claim to be ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from darkroom.serving.networks import ModelSpec
from exporters.tensorrt import engines
from exporters.tensorrt.engines import Engine
from exporters.tensorrt.plan import make_plan
from exporters.tensorrt.target import Gpu, Target

WIDTH = 48
"""Of the prompt's embeddings, which the interface leaves open and the weights fix."""
H100 = Gpu(name="NVIDIA H100", capability="9.0")
A100 = Gpu(name="NVIDIA A100", capability="8.0")
TRT = "10.13.3.9"
HERE = Target(gpu=H100, tensorrt=TRT)

_FIXED = ("prompt_embeds", "text_embeds")
_TYPES = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8, "INT64": TensorProto.INT64}
_WEIGHTS = {"fp32": np.float32, "fp16": np.float16}


def write_onnx(spec: ModelSpec, folder: Path, precision: str = "fp32", *, fixed: bool = False) -> Path:
    """A model.onnx whose inputs are those of `spec`, each of which goes into a sum of its own.

    :param fixed: without dynamic dimensions.
    """
    nodes, weights, inputs, outputs = [], [], [], []
    for tensor in spec.inputs:
        dims = [5 if fixed else f"{tensor.name}_{axis}" if size == -1 else size
                for axis, size in enumerate((-1, *tensor.dims))]  # fmt: skip
        inputs.append(helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], dims))
        name = f"{tensor.name}_cast"
        kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", [tensor.name], [name], to=kind))
        nodes.append(helper.make_node("ReduceSum", [name], [f"{tensor.name}_sum"], keepdims=0))
        outputs.append(helper.make_tensor_value_info(f"{tensor.name}_sum", kind, []))
    weights.append(numpy_helper.from_array(np.zeros((1000, 10), _WEIGHTS[precision]), "unused"))
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    widths = {f"{tensor.name}_{len(tensor.dims)}": str(WIDTH) for tensor in spec.inputs if tensor.name in _FIXED}
    widths |= {"latents_1": "4"}  # of a UNet, whose weights fix its channels
    helper.set_model_props(model, widths)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def install(spec: ModelSpec, repository: Path, *, gpu: Gpu = H100, tensorrt: str = TRT, max_batch: int = 8) -> Engine:
    """Bytes that claim to be the engine of a small model.onnx, put in place as a built one is."""
    folder = repository / spec.name / "1"
    file = folder / "model.onnx"
    if not file.exists():
        write_onnx(spec, folder)
    plan = make_plan(spec, file, precision="fp16", max_batch=max_batch)
    return engines.install(folder, plan, Target(gpu=gpu, tensorrt=tensorrt), spec.name.encode(), 61.25)
