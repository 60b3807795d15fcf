"""How each network of the family is exported and checked: its graph, its inputs, and diffusers' own answer to them.

Dimensions as in `exporters.sdxl.graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from darkroom.pipelines.sdxl import networks
from darkroom.serving.networks import ModelSpec, split_label
from exporters.controls import CONTROLNET
from exporters.latent_plans import Makers, controlled, decoded, encoded, make_plan
from exporters.lora import LoraPart
from exporters.plan import NetworkPlan, Parts, Random, Shape
from exporters.sdxl.weights import REFINER, TEXT_ENCODERS, UNET, VAE

_LORA_UNET = LoraPart(component=UNET, attribute="unet", within=r".*\.attentions\..*")
_LORA_TEXTS = tuple(
    LoraPart(component=part, attribute="encoder", within=r".*encoder\.layers\..*", prefix=prefix)
    for part, prefix in zip(TEXT_ENCODERS, ("text_model.", ""), strict=True)
)
_LARGEST = 2048
"""Maximum of the sizes and crops that are compared; larger ones are the same sinusoids."""


def plan_of(spec: ModelSpec, *, projection: int, scored: bool = False) -> NetworkPlan:
    """The plan of a network of this family, whatever its label.

    :param projection: the width of the pooled embedding.
    :param scored: of a refiner: see `exporters.sdxl.weights.Refiner`.
    """
    from exporters.graphs import clip, vae
    from exporters.sdxl import graphs

    name, _ = split_label(spec.name)
    first, second = TEXT_ENCODERS
    if name == networks.TEXT_ENCODER.name:
        return _plan(
            spec, first, clip.ServedStatesEncoder, lambda parts, given: _read(parts[first], given), lora=_LORA_TEXTS[0]
        )
    if name == networks.TEXT_ENCODER_2.name:
        return _plan(
            spec,
            second,
            clip.ServedPooledStatesEncoder,
            lambda parts, given: _read(parts[second], given),
            lora=_LORA_TEXTS[1],
        )
    if name == networks.VAE_ENCODER.name:
        return _plan(spec, VAE, vae.ServedVaeEncoder, encoded)
    if name == networks.VAE_DECODER.name:
        return _plan(spec, VAE, vae.ServedVaeDecoder, decoded)
    more = _conditions(spec, projection)
    if name == networks.UNET.name:
        return make_plan(spec, (UNET,), lambda parts: graphs.ServedUnet(parts[UNET]), _noise, more, lora=_LORA_UNET)
    if name != networks.REFINER_UNET.name:
        return make_plan(
            spec,
            (UNET, CONTROLNET),
            lambda parts: graphs.ServedControlUnet(parts[UNET], parts[CONTROLNET]),
            lambda parts, given: controlled(parts, given, _added),
            more,
            lora=_LORA_UNET,
        )
    return make_plan(
        spec,
        (REFINER,),
        lambda parts: graphs.ServedRefinerUnet(parts[REFINER], scored=scored),
        lambda parts, given: _refined(parts, given, scored=scored),
        more,
    )


def _plan(
    spec: ModelSpec, part: str, served: Callable[[Any], Any], original: Any, *, lora: LoraPart | None = None
) -> NetworkPlan:
    """The plan of a network that is one part of the checkpoint."""
    return make_plan(spec, (part,), lambda parts: served(parts[part]), original, lora=lora)


def _conditions(spec: ModelSpec, projection: int) -> Callable[[Parts, Shape, Random], Makers]:
    ids = next(tensor for tensor in spec.inputs if tensor.name == "time_ids").dims[0]

    def more(parts: Parts, shape: Shape, random: Random) -> Makers:
        return {
            "text_embeds": lambda: random.normal(size=(shape.rows, projection)),
            "time_ids": lambda: random.integers(0, _LARGEST, (shape.rows, ids)).astype(np.float32),
        }

    return more


def _read(encoder: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    answer = encoder(input_ids=given["input_ids"], output_hidden_states=True)
    pooled = {} if answer.get("text_embeds") is None else {"text_embeds": answer.text_embeds}
    return {"prompt_embeds": answer.hidden_states[-2], **pooled}


def _noise(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return _ask(parts[UNET], given, given["time_ids"])


def _refined(parts: Parts, given: Mapping[str, Any], *, scored: bool) -> Mapping[str, Any]:
    """What `_get_add_time_ids` of diffusers' StableDiffusionXLImg2ImgPipeline tells a refiner."""
    taken = [0, 1, 2, 3, 6] if scored else [0, 1, 2, 3, 4, 5]
    return _ask(parts[REFINER], given, given["time_ids"][:, taken])


def _added(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"added_cond_kwargs": {name: row[name] for name in ("text_embeds", "time_ids")}}


def _ask(unet: Any, given: Mapping[str, Any], time_ids: Any) -> Mapping[str, Any]:
    answer = unet(
        given["latents"],
        given["timestep"][:, 0],
        given["prompt_embeds"],
        added_cond_kwargs={"text_embeds": given["text_embeds"], "time_ids": time_ids},
        return_dict=False,
    )
    return {"noise_pred": answer[0]}
