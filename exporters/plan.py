"""How a network is exported and checked: its graph, its inputs, and the original's own answer to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.serving.networks import Array, ModelSpec, Tensors
from exporters import onnx_export
from exporters.lora import LoraPart, LoraPoints, take_marks

Parts = Mapping[str, Any]
"""The loaded networks by their part of the checkpoint: "unet", "vae", "text_encoder" and so on."""
Case = tuple[Tensors, Tensors]
"""Inputs of a network, and the original's answers to them."""
Random = np.random.Generator
SHARED = (
    "exporters.plan",
    "exporters.onnx_export",
    "exporters.lora",
    "exporters.graphs.attention",
    "exporters.graphs.lora",
    "exporters.graphs.precision",
    "darkroom.serving.lora_layout",
)
"""Modules that shape every planned graph."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one call.

    :param height, width: of the latents.
    """

    rows: int
    height: int
    width: int
    tokens: int


# No side may be 1, which the exporter would take for a constant, and no two alike, which it would take for one.
EXAMPLE = Shape(rows=2, height=18, width=14, tokens=70)
_TRACED_ROWS = 63
"""With 64 and more, diffusers' Upsample2D changes the memory layout of its input, which means nothing in a graph."""


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """How one network is exported and checked.

    :param parts: which networks of the checkpoint go into it.
    :param served: makes the module to export of them.
    :param original: the original's answer to inputs, in fp32.
    :param inputs: inputs of a shape: noise where the network sees noise, numbers of their ranges where it sees numbers.
    :param dynamic: the dynamic dimensions of each input, by index.
    :param check_shapes: the calls in which the export is compared with the original.
    :param open_sizes: whether to name the dimensions that the spec leaves open and the checkpoint fixes.
    :param lora: the part that takes LoRAs; None where the network takes none.
    """

    spec: ModelSpec
    parts: tuple[str, ...]
    served: Callable[[Parts], Any]
    original: Callable[[Parts, Mapping[str, Any]], Mapping[str, Any]]
    inputs: Callable[[Parts, Shape, Random], dict[str, Array]]
    dynamic: Callable[[Parts], Mapping[str, Mapping[int, Any]]]
    check_shapes: tuple[Shape, ...]
    open_sizes: bool = False
    lora: LoraPart | None = None


def export(plan: NetworkPlan, parts: Parts, *, half: bool) -> tuple[Any, LoraPoints | None]:
    """The ONNX model of a plan, and where LoRAs act in it; `half` turns the networks themselves to fp16."""
    import torch

    from exporters.graphs import attention, lora
    from exporters.graphs.precision import halved

    served = plan.served({name: halved(part) if half else part for name, part in parts.items()})
    example = plan.inputs(parts, EXAMPLE, np.random.default_rng(0))
    with lora.marked(getattr(served, plan.lora.attribute), plan.lora) if plan.lora else nullcontext():
        model = onnx_export.export_onnx(
            served,
            {name: torch.from_numpy(array) for name, array in example.items()},
            dynamic=plan.dynamic(parts),
            outputs=[tensor.name for tensor in plan.spec.outputs],
            translations={**attention.translations(), **lora.translations()},
        )
    if plan.open_sizes:
        _leave_open(model, plan.spec)
    if plan.lora is None:
        return model, None
    return model, take_marks(model, lora.layout_of(getattr(served, plan.lora.attribute), plan.lora))


def _leave_open(model: Any, spec: ModelSpec) -> None:
    """Name the dimensions that the spec leaves open and this checkpoint fixes: the width of the embeddings.

    Triton wants the configuration to say what the graph says, and the configuration is one for all checkpoints. The
    model's metadata has the sizes by the names of the dimensions, for engines, which want to know them.
    """
    import onnx_ir

    tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis, size in enumerate(tensors[value.name].dims, start=1):
            if size == -1 and isinstance(value.shape[axis], int):
                name, shape = f"{value.name}_{axis}", list(value.shape)
                model.metadata_props[name] = str(value.shape[axis])
                shape[axis] = onnx_ir.SymbolicDim(name)
                value.shape = onnx_ir.Shape(shape)


def rows_dimension() -> Any:
    """The batch, as a dynamic dimension."""
    return onnx_export.dimension("batch", maximum=_TRACED_ROWS)


def side_dimensions(minimum: int) -> tuple[Any, Any]:
    """Height and width, as dynamic dimensions.

    :param minimum: see `onnx_export.dimension`.
    """
    return (
        onnx_export.dimension("height", minimum=minimum),
        onnx_export.dimension("width", minimum=minimum),
    )


def originals(plan: NetworkPlan, parts: Parts) -> list[Case]:
    """Inputs of all the plan's check shapes with the original's answers."""
    random = np.random.default_rng(1)
    return answered(plan, parts, [plan.inputs(parts, shape, random) for shape in plan.check_shapes])


def answered(plan: NetworkPlan, parts: Parts, calls: Iterable[Mapping[str, Array]]) -> list[Case]:
    """Each of these inputs with the original's answers."""
    import torch

    cases: list[Case] = []
    with torch.no_grad():
        for given in calls:
            answer = plan.original(parts, {name: torch.from_numpy(array) for name, array in given.items()})
            cases.append((given, {name: np.asarray(value) for name, value in answer.items()}))
    return cases


def decoded_image(vae: Any, latents: Any) -> Mapping[str, Any]:
    """What diffusers makes of the latents of a VAE with a scaling factor, and perhaps a shift: "image", uint8."""
    from diffusers.image_processor import VaeImageProcessor

    unscaled = latents / vae.config.scaling_factor
    if vae.config.get("shift_factor"):
        unscaled = unscaled + vae.config.shift_factor
    pixels = VaeImageProcessor().postprocess(vae.decode(unscaled, return_dict=False)[0], output_type="np")
    return {"image": (pixels * 255).round().astype("uint8")}
