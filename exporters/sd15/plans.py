"""How each network of the family is exported and checked: its graph, its inputs, and diffusers' own answer to them.

Dimensions as in `exporters.sd15.graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.serving.networks import Array, ModelSpec, Tensors
from exporters import onnx_export

Parts = Mapping[str, Any]
"""The loaded networks by their part: "unet", "controlnet", "vae", "text_encoder"."""
Case = tuple[Tensors, Tensors]
"""Inputs of a network, and the original's answers to them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one call."""

    rows: int
    height: int
    width: int
    tokens: int


# Odd latents, sides that no level halves evenly, prompts of one, two and three chunks, single rows.
CHECK_SHAPES = (
    Shape(rows=1, height=9, width=13, tokens=77),
    Shape(rows=2, height=16, width=16, tokens=154),
    Shape(rows=1, height=24, width=8, tokens=231),
    Shape(rows=3, height=8, width=11, tokens=77),
)
# No side may be 1, which the exporter would take for a constant, and no two alike, which it would take for one.
_EXAMPLE = Shape(rows=2, height=18, width=14, tokens=70)
_TRACED_SIDE = 9
"""Halved three times it is still more than 1, as SD 1.5's four levels do it."""
_TRACED_ROWS = 63
"""With 64 and more, diffusers' Upsample2D lays its input out anew, which means nothing in a graph."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One network.

    :param parts: which networks of the checkpoint go into it.
    :param served: makes the module to export of them.
    :param original: diffusers' answer to inputs, in fp32.
    """

    spec: ModelSpec
    parts: tuple[str, ...]
    served: Callable[[Parts], Any]
    original: Callable[[Parts, Mapping[str, Any]], Mapping[str, Any]]


def inputs(plan: Plan, parts: Parts, shape: Shape, random: np.random.Generator) -> dict[str, Array]:
    """Inputs of that shape: noise where a network sees noise, numbers of their ranges where it sees numbers."""
    rows, tokens = shape.rows, shape.tokens
    pixels = (rows, shape.height * VAE_SCALE_FACTOR, shape.width * VAE_SCALE_FACTOR, 3)
    makers: dict[str, Callable[[], Array]] = {
        "latents": lambda: random.normal(size=(rows, LATENT_CHANNELS, shape.height, shape.width)),
        "timestep": lambda: random.uniform(0, 999, (rows, 1)),
        "prompt_embeds": lambda: random.normal(size=(rows, tokens, parts["unet"].config.cross_attention_dim)),
        "controlnet_conditioning_scale": lambda: random.uniform(0.2, 1.5, (rows, 1)),
        "control_image": lambda: random.integers(0, 256, pixels, np.uint8),
        "image": lambda: random.integers(0, 256, pixels, np.uint8),
        "input_ids": lambda: random.integers(0, _vocabulary(parts), (rows, min(tokens, _positions(parts)))),
    }
    made = {tensor.name: makers[tensor.name]() for tensor in plan.spec.inputs}
    return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in made.items()}


def _vocabulary(parts: Parts) -> int:
    return int(parts["text_encoder"].config.vocab_size)


def _positions(parts: Parts) -> int:
    return int(parts["text_encoder"].config.max_position_embeddings)


def export(plan: Plan, parts: Parts, *, half: bool) -> Any:
    """The ONNX model of a plan; `half` turns the networks themselves to fp16."""
    import torch

    from exporters.sd15 import attention

    served = plan.served({name: part.half() if half else part for name, part in parts.items()})
    example = inputs(plan, parts, _EXAMPLE, np.random.default_rng(0))
    model = onnx_export.export_onnx(
        served,
        {name: torch.from_numpy(array) for name, array in example.items()},
        dynamic=_dynamic(parts),
        outputs=[tensor.name for tensor in plan.spec.outputs],
        translations=attention.translations(),
    )
    _leave_open(model, plan.spec)
    return model


def _leave_open(model: Any, spec: ModelSpec) -> None:
    """Name the dimensions that the spec leaves open and this checkpoint fixes: the width of the embeddings.

    Triton wants the configuration to say what the graph says, and the configuration is one for all checkpoints.
    """
    import onnx_ir

    tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis, size in enumerate(tensors[value.name].dims, start=1):
            if size == -1 and isinstance(value.shape[axis], int):
                shape = list(value.shape)
                shape[axis] = onnx_ir.SymbolicDim(f"{value.name}_{axis}")
                value.shape = onnx_ir.Shape(shape)


def _dynamic(parts: Parts) -> dict[str, dict[int, Any]]:
    rows = onnx_export.dimension("batch", maximum=_TRACED_ROWS)
    height, width = (onnx_export.dimension(name, minimum=_TRACED_SIDE) for name in ("height", "width"))
    longest = _positions(parts) if "text_encoder" in parts else 2**16
    tokens = onnx_export.dimension("tokens", maximum=longest)
    pixels = {0: rows, 1: VAE_SCALE_FACTOR * height, 2: VAE_SCALE_FACTOR * width}
    return {
        "latents": {0: rows, 2: height, 3: width},
        "timestep": {0: rows},
        "prompt_embeds": {0: rows, 1: tokens},
        "controlnet_conditioning_scale": {0: rows},
        "control_image": pixels,
        "image": pixels,
        "input_ids": {0: rows, 1: tokens},
    }


def originals(plan: Plan, parts: Parts) -> list[Case]:
    """Inputs of all CHECK_SHAPES with diffusers' answers."""
    random = np.random.default_rng(1)
    return answered(plan, parts, [inputs(plan, parts, shape, random) for shape in CHECK_SHAPES])


def answered(plan: Plan, parts: Parts, calls: list[dict[str, Array]]) -> list[Case]:
    """Each of these inputs with the original's answers."""
    import torch

    cases: list[Case] = []
    with torch.no_grad():
        for given in calls:
            answer = plan.original(parts, {name: torch.from_numpy(array) for name, array in given.items()})
            cases.append((given, {name: np.asarray(value) for name, value in answer.items()}))
    return cases


def _text(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt_embeds": parts["text_encoder"](input_ids=given["input_ids"]).last_hidden_state}


def _noise(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    times = given["timestep"][:, 0]
    return {"noise_pred": parts["unet"](given["latents"], times, given["prompt_embeds"], return_dict=False)[0]}


def _controlled_noise(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Row by row, as diffusers has one scale for all rows of a call."""
    import torch

    answers = []
    for row in range(len(given["latents"])):
        one = {name: value[row : row + 1] for name, value in given.items()}
        call = (one["latents"], one["timestep"][:, 0], one["prompt_embeds"])
        down, middle = parts["controlnet"](
            *call,
            controlnet_cond=one["control_image"].permute(0, 3, 1, 2) / 255,
            conditioning_scale=float(one["controlnet_conditioning_scale"]),
            return_dict=False,
        )
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        answers.append(parts["unet"](*call, **residuals, return_dict=False)[0])
    return {"noise_pred": torch.cat(answers)}


def _encoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    vae = parts["vae"]
    posterior = vae.encode(given["image"].permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    factor = vae.config.scaling_factor
    return {"mean": posterior.mean * factor, "std": posterior.std * factor}


def _decoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    from diffusers.image_processor import VaeImageProcessor

    vae = parts["vae"]
    decoded = vae.decode(given["latents"] / vae.config.scaling_factor, return_dict=False)[0]
    pixels = VaeImageProcessor().postprocess(decoded, output_type="np")
    return {"image": (pixels * 255).round().astype("uint8")}


def plan_of(spec: ModelSpec) -> Plan:
    """The plan of a network of this family."""
    from exporters.sd15 import graphs

    if spec is networks.TEXT_ENCODER:
        return Plan(
            spec=spec,
            parts=("text_encoder",),
            served=lambda parts: graphs.ServedTextEncoder(parts["text_encoder"]),
            original=_text,
        )
    if spec is networks.UNET:
        return Plan(spec=spec, parts=("unet",), served=lambda parts: graphs.ServedUnet(parts["unet"]), original=_noise)
    if spec is networks.VAE_ENCODER:
        return Plan(
            spec=spec, parts=("vae",), served=lambda parts: graphs.ServedVaeEncoder(parts["vae"]), original=_encoded
        )
    if spec is networks.VAE_DECODER:
        return Plan(
            spec=spec, parts=("vae",), served=lambda parts: graphs.ServedVaeDecoder(parts["vae"]), original=_decoded
        )
    return Plan(
        spec=spec,
        parts=("unet", "controlnet"),
        served=lambda parts: graphs.ServedControlUnet(parts["unet"], parts["controlnet"]),
        original=_controlled_noise,
    )
