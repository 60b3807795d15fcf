"""What the plans of UNets, VAEs and CLIP's text encoders have in common: inputs by their names, and diffusers' answers.

Dimensions: B rows, h x w latents, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from darkroom.serving.networks import Array, ModelSpec
from exporters import onnx_export, plan
from exporters.lora import LoraPart
from exporters.plan import NetworkPlan, Parts, Random, Shape

Makers = Mapping[str, Callable[[], Array]]
"""What makes an input, by its name."""
MODULES = (
    *plan.SHARED,
    "exporters.graphs.clip",
    "exporters.graphs.controlnet",
    "exporters.graphs.unet",
    "exporters.graphs.vae",
    "exporters.latent_plans",
)
"""What shapes the graphs, beside the modules of the family."""
FACTOR = 8
"""Pixels per latent along each axis."""

# Odd latents, sides that no level halves evenly, prompts of one, two and three chunks, single rows.
CHECK_SHAPES = (
    Shape(rows=1, height=9, width=13, tokens=77),
    Shape(rows=2, height=16, width=16, tokens=154),
    Shape(rows=1, height=24, width=8, tokens=231),
    Shape(rows=3, height=8, width=11, tokens=77),
)
_TRACED_SIDE = 9
"""Halved three times it is still more than 1, as UNets of four levels do it."""


def make_plan(
    spec: ModelSpec,
    parts: tuple[str, ...],
    served: Callable[[Parts], Any],
    original: Callable[[Parts, Mapping[str, Any]], Mapping[str, Any]],
    more: Callable[[Parts, Shape, Random], Makers] = lambda parts, shape, random: {},
    *,
    lora: LoraPart | None = None,
) -> NetworkPlan:
    """The plan of a network whose inputs have the names of `_makers` or of `more`.

    :param served, original, parts: see `NetworkPlan`.
    :param more: makers of inputs that only this family has.
    :param lora: where LoRAs can act in it; None: it takes none.
    """

    def inputs(given: Parts, shape: Shape, random: Random) -> dict[str, Array]:
        makers = {**_makers(spec, given, shape, random), **more(given, shape, random)}
        made = {tensor.name: makers[tensor.name]() for tensor in spec.inputs}
        return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in made.items()}

    return NetworkPlan(
        spec=spec,
        parts=parts,
        served=served,
        original=original,
        inputs=inputs,
        dynamic=_dynamic,
        check_shapes=CHECK_SHAPES,
        open_sizes=True,
        lora=lora,
    )


def _makers(spec: ModelSpec, parts: Parts, shape: Shape, random: Random) -> Makers:
    rows, tokens = shape.rows, shape.tokens
    pixels = (rows, shape.height * FACTOR, shape.width * FACTOR, 3)
    return {
        "latents": lambda: random.normal(size=(rows, _channels(spec, parts), shape.height, shape.width)),
        "timestep": lambda: random.uniform(0, 999, (rows, 1)),
        "prompt_embeds": lambda: random.normal(size=(rows, tokens, _config(parts, "cross_attention_dim"))),
        "controlnet_conditioning_scale": lambda: random.uniform(0.2, 1.5, (rows, 1)),
        "control_image": lambda: random.integers(0, 256, pixels, np.uint8),
        "image": lambda: random.integers(0, 256, pixels, np.uint8),
        "input_ids": lambda: random.integers(
            0, _config(parts, "vocab_size"), (rows, min(tokens, _config(parts, "max_position_embeddings")))
        ),
    }


def _channels(spec: ModelSpec, parts: Parts) -> int:
    """Of the input "latents": those of the spec, or where it leaves them open those of the first part."""
    channels = next(tensor.dims[0] for tensor in spec.inputs if tensor.name == "latents")
    return _config(parts, "in_channels") if channels == -1 else channels


def _config(parts: Parts, name: str) -> int:
    """A number that the configuration of one of the parts has."""
    found = (getattr(part.config, name, None) for part in parts.values())
    return int(next(value for value in found if value is not None))


def _dynamic(parts: Parts) -> dict[str, dict[int, Any]]:
    rows = plan.rows_dimension()
    height, width = plan.side_dimensions(_TRACED_SIDE)
    longest = [getattr(part.config, "max_position_embeddings", None) for part in parts.values()]
    tokens = onnx_export.dimension("tokens", maximum=min((n for n in longest if n is not None), default=2**16))
    pixels = {0: rows, 1: FACTOR * height, 2: FACTOR * width}
    return {
        "latents": {0: rows, 2: height, 3: width},
        "timestep": {0: rows},
        "prompt_embeds": {0: rows, 1: tokens},
        "text_embeds": {0: rows},
        "time_ids": {0: rows},
        "controlnet_conditioning_scale": {0: rows},
        "control_image": pixels,
        "image": pixels,
        "input_ids": {0: rows, 1: tokens},
    }


def encoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The posterior of the part "vae": "mean" and "std", times its scaling factor."""
    vae = parts["vae"]
    posterior = vae.encode(given["image"].permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    factor = vae.config.scaling_factor
    return {"mean": posterior.mean * factor, "std": posterior.std * factor}


def decoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the part "vae" makes of latents: "image"."""
    return plan.decoded_image(parts["vae"], given["latents"])


def controlled(
    parts: Parts, given: Mapping[str, Any], more: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda row: {}
) -> Mapping[str, Any]:
    """What the part "unet" makes of latents with the part "controlnet": "noise_pred". Row by row, as diffusers has one
    scale for all rows of a call.

    :param more: further arguments of both networks for the inputs of a row.
    """
    import torch

    unet, controlnet = parts["unet"], parts["controlnet"]
    answers = []
    for row in range(len(given["latents"])):
        one = {name: value[row : row + 1] for name, value in given.items()}
        times, embeds, further = one["timestep"][:, 0], one["prompt_embeds"], more(one)
        down, middle = controlnet(
            one["latents"][:, : controlnet.config.in_channels],
            times,
            embeds,
            controlnet_cond=one["control_image"].permute(0, 3, 1, 2) / 255,
            conditioning_scale=float(one["controlnet_conditioning_scale"]),
            return_dict=False,
            **further,
        )
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        answers.append(unet(one["latents"], times, embeds, **residuals, **further, return_dict=False)[0])
    return {"noise_pred": torch.cat(answers)}
