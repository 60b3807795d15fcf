"""How each network of the family is exported and checked: its graph, its inputs, and diffusers' own answer to them.

Dimensions as in `exporters.sd15.graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from darkroom.pipelines.sd15 import networks
from darkroom.serving.networks import ModelSpec, split_label
from exporters.latent_plans import controlled, decoded, encoded, make_plan
from exporters.lora import LoraPart
from exporters.plan import NetworkPlan, Parts

_LORA_UNET = LoraPart(component="unet", attribute="unet", within=r".*\.attentions\..*")
_LORA_TEXT = LoraPart(
    component="text_encoder", attribute="encoder", within=r".*encoder\.layers\..*", prefix="text_model."
)


def _text(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt_embeds": parts["text_encoder"](input_ids=given["input_ids"]).last_hidden_state}


def _noise(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    times = given["timestep"][:, 0]
    return {"noise_pred": parts["unet"](given["latents"], times, given["prompt_embeds"], return_dict=False)[0]}


def plan_of(spec: ModelSpec) -> NetworkPlan:
    """The plan of a network of this family, whatever its label."""
    from exporters.graphs import clip, vae
    from exporters.sd15 import graphs

    name, _ = split_label(spec.name)
    if name == networks.TEXT_ENCODER.name:
        return _plan(spec, "text_encoder", clip.ServedTextEncoder, _text, lora=_LORA_TEXT)
    if name == networks.UNET.name:
        return _plan(spec, "unet", graphs.ServedUnet, _noise, lora=_LORA_UNET)
    if name == networks.VAE_ENCODER.name:
        return _plan(spec, "vae", vae.ServedVaeEncoder, encoded)
    if name == networks.VAE_DECODER.name:
        return _plan(spec, "vae", vae.ServedVaeDecoder, decoded)
    return make_plan(
        spec,
        ("unet", "controlnet"),
        lambda parts: graphs.ServedControlUnet(parts["unet"], parts["controlnet"]),
        controlled,
        lora=_LORA_UNET,
    )


def _plan(
    spec: ModelSpec, part: str, served: Callable[[Any], Any], original: Any, *, lora: LoraPart | None = None
) -> NetworkPlan:
    """The plan of a network that is one part of the checkpoint."""
    return make_plan(spec, (part,), lambda parts: served(parts[part]), original, lora=lora)
