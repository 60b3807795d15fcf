"""The configuration of a network as far as the shapes of its weights tell it: widths, layers, where attention is.

Names are those of the original code, without the prefix that a network has in a file. Heads, groups of normalizations
and factors have no weights, and are not found here.
"""

from __future__ import annotations

from typing import Any

from exporters.checkpoints.single_file.header import Shapes
from exporters.errors import ExportError

_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
"""Blocks of a UNet, without attention and with it."""


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Return what a UNet's weights say of diffusers' UNet2DConditionModel.

    Without "transformer_layers_per_block" where the attentions of a level have different numbers of layers.

    :raises ExportError: it is no UNet that diffusers has.
    :raises KeyError: weights are missing.
    """
    widths, down = _levels(shapes)
    layers = len(down[0])
    if any(len(level) != layers for level in down):
        raise ExportError("the levels of its UNet have different numbers of layers")
    up = [
        [_depth(shapes, f"output_blocks.{level * (layers + 1) + layer}.1.") for layer in range(layers + 1)]
        for level in range(len(down))
    ]
    config: dict[str, Any] = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "down_block_types": [_DOWN[max(level) > 0] for level in down],
        "up_block_types": [_UP[max(level) > 0] for level in up],
        "layers_per_block": layers,
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
    }
    depths = _depths(down, up[::-1], _depth(shapes, "middle_block.1."))
    if depths is not None:
        config["transformer_layers_per_block"] = depths[0] if len(set(depths)) == 1 else depths
    if "label_emb.0.0.weight" in shapes:
        config["projection_class_embeddings_input_dim"] = shapes["label_emb.0.0.weight"][1]
    return config


def _levels(shapes: Shapes) -> tuple[list[int], list[list[int]]]:
    """The width of each level on the way down, and the layers of attention (0: none) beside each of its resnets."""
    widths: list[int] = []
    levels: list[list[int]] = [[]]
    block = 1
    while f"input_blocks.{block}.0.op.weight" in shapes or f"input_blocks.{block}.0.out_layers.3.weight" in shapes:
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
        else:
            width = shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0]
            widths += [width] if not levels[-1] else []
            levels[-1].append(_depth(shapes, f"input_blocks.{block}.1."))
        block += 1
    if not all(levels):
        raise ExportError("a level of its UNet has no layers")
    return widths, levels


def _depth(shapes: Shapes, prefix: str) -> int:
    """The layers of an attention; 0 where there is none."""
    return _count(shapes, f"{prefix}transformer_blocks.{{}}.norm1.weight")


def _depths(down: list[list[int]], up: list[list[int]], middle: int) -> list[int] | None:
    """The layers of attention of each level; None where a level has several numbers.

    diffusers gives the middle as many as the last level.
    """
    found = []
    for level, (one, other) in enumerate(zip(down, up, strict=True)):
        depths = {depth for depth in (*one, *other) if depth}
        if level == len(down) - 1:
            depths.add(middle)
        if len(depths) > 1:
            return None
        found.append(depths.pop() if depths else 1)
    return found


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Return what a VAE's weights say of diffusers' AutoencoderKL.

    :raises KeyError: weights are missing.
    """
    levels = _count(shapes, "encoder.down.{}.block.0.conv1.weight")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(shapes, "encoder.down.0.block.{}.conv1.weight"),
    }


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """Return what the weights of transformers' CLIPTextModel say of its configuration.

    :param shapes: with "text_model." before the names, or without.
    :raises KeyError: weights are missing.
    """
    named = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    vocabulary, width = named["embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": named["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(named, "encoder.layers.{}.mlp.fc1.weight"),
        "max_position_embeddings": named["embeddings.position_embedding.weight"][0],
    }


def open_clip_config(shapes: Shapes) -> dict[str, Any]:
    """Return what the weights of a text encoder of OpenCLIP say of transformers' CLIPTextModelWithProjection.

    :raises KeyError: weights are missing.
    """
    vocabulary, width = shapes["token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(shapes, "transformer.resblocks.{}.mlp.c_fc.weight"),
        "max_position_embeddings": shapes["positional_embedding"][0],
        "projection_dim": shapes["text_projection"][1],
    }


def _count(shapes: Shapes, name: str) -> int:
    """How many names there are with 0, 1, 2 and so on in place of "{}"."""
    count = 0
    while name.format(count) in shapes:
        count += 1
    return count
