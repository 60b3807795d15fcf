"""How each ONNX network of the family is exported and checked: its graph, its inputs, and the original's own answer.

Dimensions as in `exporters.hidream.graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.networks import LATENT_CHANNELS
from darkroom.serving.networks import Array, ModelSpec, split_label
from exporters import onnx_export, plan
from exporters.hidream import weights
from exporters.plan import NetworkPlan, Parts, Random, Shape

# Latents of all proportions, prompts of the shortest and the usual length, single rows.
CHECK_SHAPES = (
    Shape(rows=1, height=8, width=8, tokens=128),
    Shape(rows=2, height=16, width=10, tokens=16),
    Shape(rows=3, height=4, width=12, tokens=77),
)
_TRACED_SIDE = 4


def _latents(parts: Parts, shape: Shape, random: Random) -> dict[str, Array]:
    latents = random.normal(size=(shape.rows, LATENT_CHANNELS, shape.height, shape.width))
    return {"latents": latents.astype(np.float32)}


def _dynamic_latents(parts: Parts) -> dict[str, dict[int, Any]]:
    height, width = plan.side_dimensions(_TRACED_SIDE)
    return {"latents": {0: plan.rows_dimension(), 2: height, 3: width}}


def _tokens(spec: ModelSpec, part: str) -> Callable[[Parts, Shape, Random], dict[str, Array]]:
    """Makes tokens for an encoder, with padding behind all rows but the first."""

    def inputs(parts: Parts, shape: Shape, random: Random) -> dict[str, Array]:
        rows, config = shape.rows, parts[part].config
        tokens = min(shape.tokens, int(getattr(config, "max_position_embeddings", shape.tokens)))
        made: dict[str, Array] = {"input_ids": random.integers(0, config.vocab_size, (rows, tokens))}
        if len(spec.inputs) > 1:
            ends = np.array([[tokens // (row + 1)] for row in range(rows)])
            made["attention_mask"] = (np.arange(tokens)[None] < ends).astype(np.int64)
        elif config.eos_token_id is not None:
            made["input_ids"][:, -1] = config.eos_token_id  # which every tokenizer of CLIP writes
        return made

    return inputs


def _dynamic_tokens(spec: ModelSpec, part: str) -> Callable[[Parts], dict[str, dict[int, Any]]]:
    def dynamic(parts: Parts) -> dict[str, dict[int, Any]]:
        longest = int(getattr(parts[part].config, "max_position_embeddings", 2**16))
        dimensions = {0: plan.rows_dimension(), 1: onnx_export.dimension("tokens", maximum=longest)}
        return {tensor.name: dimensions for tensor in spec.inputs}

    return dynamic


Original = Callable[[Parts, Mapping[str, Any]], Mapping[str, Any]]


def _clip(part: str) -> Original:
    return lambda parts, given: {"text_embeds": parts[part](input_ids=given["input_ids"]).text_embeds}


def _t5(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt_embeds": parts[weights.T5](**given).last_hidden_state}


def _llama(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    import torch

    states = parts[weights.LLAMA](**given, use_cache=False, output_hidden_states=True).hidden_states
    return {"hidden_states": torch.stack(states[1:], dim=1)}


def _decoded(parts: Parts, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return plan.decoded_image(parts[weights.VAE], given["latents"])


def plan_of(spec: ModelSpec) -> NetworkPlan:
    """The plan of an ONNX network of this family, whatever its label."""
    from exporters.graphs.clip import ServedPooledEncoder
    from exporters.graphs.vae import ServedVaeDecoder
    from exporters.hidream import graphs

    name, _ = split_label(spec.name)
    encoders: dict[str, tuple[str, Any, Original]] = {
        networks.CLIP_L.name: (weights.CLIPS[0], ServedPooledEncoder, _clip(weights.CLIPS[0])),
        networks.CLIP_G.name: (weights.CLIPS[1], ServedPooledEncoder, _clip(weights.CLIPS[1])),
        networks.T5.name: (weights.T5, graphs.ServedT5, _t5),
        networks.LLAMA.name: (weights.LLAMA, graphs.ServedLlama, _llama),
    }
    if name in encoders:
        part, served, original = encoders[name]
        return NetworkPlan(
            spec=spec,
            parts=(part,),
            served=lambda parts: served(parts[part]),
            original=original,
            inputs=_tokens(spec, part),
            dynamic=_dynamic_tokens(spec, part),
            check_shapes=CHECK_SHAPES,
        )
    return NetworkPlan(
        spec=spec,
        parts=(weights.VAE,),
        served=lambda parts: ServedVaeDecoder(parts[weights.VAE]),
        original=_decoded,
        inputs=_latents,
        dynamic=_dynamic_latents,
        check_shapes=CHECK_SHAPES,
    )
