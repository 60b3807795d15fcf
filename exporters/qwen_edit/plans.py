"""How each ONNX network of the family is exported and checked: its graph, its inputs, and diffusers' own answer.

Dimensions as in `exporters.qwen_edit.graphs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from darkroom.serving.networks import Array, ModelSpec, split_label
from exporters import plan
from exporters.plan import NetworkPlan, Parts, Random, Shape
from exporters.qwen_edit import weights

# Latents of all proportions, single rows.
CHECK_SHAPES = (
    Shape(rows=1, height=8, width=8, tokens=0),
    Shape(rows=2, height=16, width=10, tokens=0),
    Shape(rows=3, height=4, width=12, tokens=0),
)
_TRACED_SIDE = 4


def _latents(parts: Parts, shape: Shape, random: Random) -> dict[str, Array]:
    latents = random.normal(size=(shape.rows, LATENT_CHANNELS, shape.height, shape.width))
    return {"latents": latents.astype(np.float32)}


def _dynamic_latents(parts: Parts) -> dict[str, dict[int, Any]]:
    height, width = plan.side_dimensions(_TRACED_SIDE)
    return {"latents": {0: plan.rows_dimension(), 2: height, 3: width}}


def _image(parts: Parts, shape: Shape, random: Random) -> dict[str, Array]:
    size = (shape.rows, shape.height * VAE_SCALE_FACTOR, shape.width * VAE_SCALE_FACTOR, 3)
    return {"image": random.integers(0, 256, size, np.uint8)}


def _dynamic_image(parts: Parts) -> dict[str, dict[int, Any]]:
    height, width = plan.side_dimensions(_TRACED_SIDE)
    return {"image": {0: plan.rows_dimension(), 1: VAE_SCALE_FACTOR * height, 2: VAE_SCALE_FACTOR * width}}


def _scales(vae: Any) -> tuple[Any, Any]:
    import torch

    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return mean[None, :, None, None], std[None, :, None, None]


def _encoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """As `_encode_vae_image` of diffusers' pipelines."""
    vae = parts[weights.VAE]
    mean, std = _scales(vae)
    pixels = given["image"].permute(0, 3, 1, 2)[:, :, None] / 127.5 - 1
    return {"mean": (vae.encode(pixels).latent_dist.mode()[:, :, 0] - mean) / std}


def _decoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    from diffusers.image_processor import VaeImageProcessor

    vae = parts[weights.VAE]
    mean, std = _scales(vae)
    decoded = vae.decode((given["latents"] * std + mean)[:, :, None], return_dict=False)[0][:, :, 0]
    pixels = VaeImageProcessor().postprocess(decoded, output_type="np")
    return {"image": (pixels * 255).round().astype("uint8")}


def plan_of(spec: ModelSpec) -> NetworkPlan:
    """The plan of an ONNX network of this family, whatever its label."""
    from exporters.qwen_edit import graphs

    encoder = split_label(spec.name)[0] == networks.VAE_ENCODER.name
    served = graphs.ServedVaeEncoder if encoder else graphs.ServedVaeDecoder
    return NetworkPlan(
        spec=spec,
        parts=(weights.VAE,),
        served=lambda parts: served(parts[weights.VAE]),
        original=_encoded if encoder else _decoded,
        inputs=_image if encoder else _latents,
        dynamic=_dynamic_image if encoder else _dynamic_latents,
        check_shapes=CHECK_SHAPES,
    )
