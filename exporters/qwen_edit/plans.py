"""How each ONNX network of the family is exported and checked: its graph, its inputs, and diffusers' own answer.

Dimensions as in `exporters.qwen_edit.graphs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.pipelines.qwen_edit import networks
from darkroom.serving.networks import ModelSpec, split_label
from exporters.latent_plans import make_plan
from exporters.plan import NetworkPlan, Parts
from exporters.qwen_edit import weights


def _encoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """As `_encode_vae_image` of diffusers' pipelines."""
    from exporters.qwen_edit import graphs

    vae = parts[weights.VAE]
    mean, std = graphs.latents_scale(vae)
    pixels = given["image"].permute(0, 3, 1, 2)[:, :, None] / 127.5 - 1
    return {"mean": (vae.encode(pixels).latent_dist.mode()[:, :, 0] - mean) / std}


def _decoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    from diffusers.image_processor import VaeImageProcessor

    from exporters.qwen_edit import graphs

    vae = parts[weights.VAE]
    mean, std = graphs.latents_scale(vae)
    decoded = vae.decode((given["latents"] * std + mean)[:, :, None], return_dict=False)[0][:, :, 0]
    pixels = VaeImageProcessor().postprocess(decoded, output_type="np")
    return {"image": (pixels * 255).round().astype("uint8")}


def plan_of(spec: ModelSpec) -> NetworkPlan:
    """The plan of an ONNX network of this family, whatever its label."""
    from exporters.qwen_edit import graphs

    encoder = split_label(spec.name)[0] == networks.VAE_ENCODER.name
    served = graphs.ServedVaeEncoder if encoder else graphs.ServedVaeDecoder
    return make_plan(
        spec,
        (weights.VAE,),
        lambda parts: served(parts[weights.VAE]),
        _encoded if encoder else _decoded,
    )
