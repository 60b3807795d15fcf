"""How each network of the family is exported and checked: its graph, its inputs, and diffusers' own answer to them.

Dimensions as in `exporters.sd15.graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.serving.networks import Array, ModelSpec, split_label
from exporters import onnx_export, plan
from exporters.lora import LoraPart
from exporters.plan import Parts, Plan, Random, Shape

# Odd latents, sides that no level halves evenly, prompts of one, two and three chunks, single rows.
CHECK_SHAPES = (
    Shape(rows=1, height=9, width=13, tokens=77),
    Shape(rows=2, height=16, width=16, tokens=154),
    Shape(rows=1, height=24, width=8, tokens=231),
    Shape(rows=3, height=8, width=11, tokens=77),
)
_LORA_UNET = LoraPart(component="unet", attribute="unet", within=r".*\.attentions\..*")
_LORA_TEXT = LoraPart(
    component="text_encoder", attribute="encoder", within=r".*encoder\.layers\..*", prefix="text_model."
)
_TRACED_SIDE = 9
"""Halved three times it is still more than 1, as SD 1.5's four levels do it."""


def _inputs(spec: ModelSpec) -> Callable[[Parts, Shape, Random], dict[str, Array]]:
    """Makes inputs of any shape for a network of the family."""

    def inputs(parts: Parts, shape: Shape, random: Random) -> dict[str, Array]:
        makers = _makers(parts, shape, random)
        made = {tensor.name: makers[tensor.name]() for tensor in spec.inputs}
        return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in made.items()}

    return inputs


def _makers(parts: Parts, shape: Shape, random: Random) -> dict[str, Callable[[], Array]]:
    rows, tokens = shape.rows, shape.tokens
    pixels = (rows, shape.height * VAE_SCALE_FACTOR, shape.width * VAE_SCALE_FACTOR, 3)
    return {
        "latents": lambda: random.normal(size=(rows, LATENT_CHANNELS, shape.height, shape.width)),
        "timestep": lambda: random.uniform(0, 999, (rows, 1)),
        "prompt_embeds": lambda: random.normal(size=(rows, tokens, parts["unet"].config.cross_attention_dim)),
        "controlnet_conditioning_scale": lambda: random.uniform(0.2, 1.5, (rows, 1)),
        "control_image": lambda: random.integers(0, 256, pixels, np.uint8),
        "image": lambda: random.integers(0, 256, pixels, np.uint8),
        "input_ids": lambda: random.integers(0, _vocabulary(parts), (rows, min(tokens, _positions(parts)))),
    }


def _vocabulary(parts: Parts) -> int:
    return int(parts["text_encoder"].config.vocab_size)


def _positions(parts: Parts) -> int:
    return int(parts["text_encoder"].config.max_position_embeddings)


def _dynamic(parts: Parts) -> dict[str, dict[int, Any]]:
    rows = plan.rows_dimension()
    height, width = plan.side_dimensions(_TRACED_SIDE)
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
    return plan.decoded_image(parts["vae"], given["latents"])


def plan_of(spec: ModelSpec) -> Plan:
    """The plan of a network of this family, whatever its label."""
    from exporters.graphs import clip, vae
    from exporters.sd15 import graphs

    name, _ = split_label(spec.name)
    if name == networks.TEXT_ENCODER.name:
        return _plan(spec, "text_encoder", clip.ServedTextEncoder, _text, lora=_LORA_TEXT)
    if name == networks.UNET.name:
        return _plan(spec, "unet", graphs.ServedUnet, _noise, lora=_LORA_UNET)
    if name == networks.VAE_ENCODER.name:
        return _plan(spec, "vae", vae.ServedVaeEncoder, _encoded)
    if name == networks.VAE_DECODER.name:
        return _plan(spec, "vae", vae.ServedVaeDecoder, _decoded)
    return Plan(
        spec=spec,
        parts=("unet", "controlnet"),
        served=lambda parts: graphs.ServedControlUnet(parts["unet"], parts["controlnet"]),
        original=_controlled_noise,
        inputs=_inputs(spec),
        dynamic=_dynamic,
        check_shapes=CHECK_SHAPES,
        open_sizes=True,
        lora=_LORA_UNET,
    )


def _plan(
    spec: ModelSpec, part: str, served: Callable[[Any], Any], original: Any, *, lora: LoraPart | None = None
) -> Plan:
    """The plan of a network that is one part of the checkpoint."""
    return Plan(
        spec=spec,
        parts=(part,),
        served=lambda parts: served(parts[part]),
        original=original,
        inputs=_inputs(spec),
        dynamic=_dynamic,
        check_shapes=CHECK_SHAPES,
        open_sizes=True,
        lora=lora,
    )
