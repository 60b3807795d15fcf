"""How each ONNX network of the family is exported and checked: its graph, its inputs, and the original's own answer.

Dimensions as in `exporters.hidream.graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.networks import LATENT_CHANNELS
from darkroom.serving.networks import Array, ModelSpec
from exporters import onnx_export
from exporters.hidream import weights
from exporters.sd15.plans import Case, Parts, Plan, Shape, answered

# Latents of all proportions, prompts of the shortest and the usual length, single rows.
CHECK_SHAPES = (
    Shape(rows=1, height=8, width=8, tokens=128),
    Shape(rows=2, height=16, width=10, tokens=16),
    Shape(rows=3, height=4, width=12, tokens=77),
)
# No size may be 1, which the exporter would take for a constant, and no two alike, which it would take for one.
_EXAMPLE = Shape(rows=2, height=18, width=14, tokens=70)
_TRACED_SIDE = 4
_TRACED_ROWS = 63


def inputs(plan: Plan, parts: Parts, shape: Shape, random: np.random.Generator) -> dict[str, Array]:
    """Inputs of that shape: noise for the decoder, for encoders tokens with padding behind all rows but the first."""
    rows, tokens = shape.rows, shape.tokens
    if plan.spec is networks.VAE_DECODER:
        latents = random.normal(size=(rows, LATENT_CHANNELS, shape.height, shape.width))
        return {"latents": latents.astype(np.float32)}
    config = parts[plan.parts[0]].config
    tokens = min(tokens, int(getattr(config, "max_position_embeddings", tokens)))
    made = {"input_ids": random.integers(0, config.vocab_size, (rows, tokens))}
    if len(plan.spec.inputs) > 1:
        ends = np.array([[tokens // (row + 1)] for row in range(rows)])
        made["attention_mask"] = (np.arange(tokens)[None] < ends).astype(np.int64)
    elif config.eos_token_id is not None:
        made["input_ids"][:, -1] = config.eos_token_id  # which every tokenizer of CLIP writes
    return made


def originals(plan: Plan, parts: Parts) -> list[Case]:
    """Inputs of all CHECK_SHAPES with the original's answers."""
    random = np.random.default_rng(1)
    return answered(plan, parts, [inputs(plan, parts, shape, random) for shape in CHECK_SHAPES])


def export(plan: Plan, parts: Parts, *, half: bool) -> Any:
    """The ONNX model of a plan; `half` turns the network itself to fp16."""
    import torch

    from exporters.hidream.graphs import halved
    from exporters.sd15 import attention

    served = plan.served({name: halved(part) if half else part for name, part in parts.items()})
    example = inputs(plan, parts, _EXAMPLE, np.random.default_rng(0))
    return onnx_export.export_onnx(
        served,
        {name: torch.from_numpy(array) for name, array in example.items()},
        dynamic=_dynamic(plan, parts),
        outputs=[tensor.name for tensor in plan.spec.outputs],
        translations=attention.translations(),
    )


def _dynamic(plan: Plan, parts: Parts) -> dict[str, dict[int, Any]]:
    rows = onnx_export.dimension("batch", maximum=_TRACED_ROWS)
    if plan.spec is networks.VAE_DECODER:
        height, width = (onnx_export.dimension(name, minimum=_TRACED_SIDE) for name in ("height", "width"))
        return {"latents": {0: rows, 2: height, 3: width}}
    longest = int(getattr(parts[plan.parts[0]].config, "max_position_embeddings", 2**16))
    tokens = onnx_export.dimension("tokens", maximum=longest)
    return {tensor.name: {0: rows, 1: tokens} for tensor in plan.spec.inputs}


def _clip(part: str) -> Callable[[Parts, Mapping[str, Any]], Mapping[str, Any]]:
    return lambda parts, given: {"text_embeds": parts[part](input_ids=given["input_ids"]).text_embeds}


def _t5(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt_embeds": parts[weights.T5](**given).last_hidden_state}


def _llama(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    import torch

    states = parts[weights.LLAMA](**given, use_cache=False, output_hidden_states=True).hidden_states
    return {"hidden_states": torch.stack(states[1:], dim=1)}


def _decoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    from diffusers.image_processor import VaeImageProcessor

    vae = parts[weights.VAE]
    latents = given["latents"] / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    pixels = VaeImageProcessor().postprocess(vae.decode(latents, return_dict=False)[0], output_type="np")
    return {"image": (pixels * 255).round().astype("uint8")}


def plan_of(spec: ModelSpec) -> Plan:
    """The plan of an ONNX network of this family."""
    from exporters.hidream import graphs

    for clip, part in zip((networks.CLIP_L, networks.CLIP_G), weights.CLIPS, strict=True):
        if spec is clip:
            return _plan(spec, part, graphs.ServedClip, _clip(part))
    if spec is networks.T5:
        return _plan(spec, weights.T5, graphs.ServedT5, _t5)
    if spec is networks.LLAMA:
        return _plan(spec, weights.LLAMA, graphs.ServedLlama, _llama)
    return _plan(spec, weights.VAE, graphs.ServedVaeDecoder, _decoded)


def _plan(spec: ModelSpec, part: str, served: Any, original: Callable[..., Mapping[str, Any]]) -> Plan:
    return Plan(spec=spec, parts=(part,), served=lambda parts: served(parts[part]), original=original)
