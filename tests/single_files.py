"""Checkpoints of the diffusers layout in one file, under the names of the original code.

The names are made of the structure of the networks, as in diffusers' own scripts outside the package
(scripts/convert_diffusers_to_original_sdxl.py), and not of the translation that the exporter uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporters.checkpoints.files import read_json

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
FIRST, SECOND, ALONE = (
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
)
_FILES = {"text_encoder": "model", "text_encoder_2": "model"}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of a weight of a UNet2DConditionModel."""
    stem, _, kind = name.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{kind}"
    if found := re.fullmatch(r"mid_block\.(\w+\.\d)\.(.*)", name):
        return f"middle_block.{_MIDDLE[found[1]]}.{_within(found[1], found[2])}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    assert found, name
    way, level, what, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    layers = config["layers_per_block"] + 1
    if what == "downsamplers":
        return f"input_blocks.{layers * (level + 1)}.0.op.{kind}"
    if what == "upsamplers":
        behind = 1 + config["up_block_types"][level].startswith("CrossAttn")
        return f"output_blocks.{layers * (level + 1) - 1}.{behind}.conv.{kind}"
    block = f"input_blocks.{layers * level + layer + 1}" if way == "down" else f"output_blocks.{layers * level + layer}"
    return f"{block}.{int(what == 'attentions')}.{_within(what, rest)}"


def _within(what: str, rest: str) -> str:
    stem, _, kind = rest.rpartition(".")
    return f"{_UNET_RESNET[stem]}.{kind}" if what.startswith("resnets") else rest


def vae_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of a weight of an AutoencoderKL. The decoder's levels are counted from the other end."""
    last = len(config["block_out_channels"]) - 1
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0\.(.*)\.", lambda found: f"mid.attn_1.{_VAE_ATTENTION[found[1]]}.", name)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{last - int(found[1])}", name)
    return name.replace("resnets", "block").replace("samplers.0.conv", "sample.conv")


def open_clip_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIPTextModelWithProjection as OpenCLIP has it: query, key and value in one matrix, the projection turned."""
    state: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            state["text_projection"] = value.T.contiguous()
        elif name == "embeddings.position_embedding.weight":
            state["positional_embedding"] = value
        elif found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", name):
            parts = [weights[_full(weights, name.replace("q_proj", f"{letter}_proj"))] for letter in "qkv"]
            state[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            for ours, theirs in _OPEN_CLIP.items():
                name = name.replace(ours, theirs)
            state[name] = value
    state["logit_scale"] = torch.tensor(4.6)
    return state


def _full(weights: Mapping[str, Tensor], name: str) -> str:
    return name if name in weights else f"text_model.{name}"


def clip_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIPTextModel, with the position ids that old files carry."""
    named = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}
    return {**named, "text_model.embeddings.position_ids": torch.arange(77)[None]}


def _part(folder: Path, part: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    stem = _FILES.get(part, "diffusion_pytorch_model")
    return load_file(folder / part / f"{stem}.safetensors"), read_json(folder, f"{part}/config.json")


def _named(folder: Path, part: str, prefix: str, name_of: Callable[[str, Mapping[str, Any]], str]) -> dict[str, Tensor]:
    weights, config = _part(folder, part)
    return {f"{prefix}{name_of(name, config)}": value for name, value in weights.items()}


def _vae_state(folder: Path) -> dict[str, Tensor]:
    """The original has its VAE's attention as convolutions of one pixel."""
    state = _named(folder, "vae", VAE, vae_name)
    flat = [name for name, value in state.items() if ".mid.attn_1." in name and value.ndim == 2]
    return {**state, **{name: state[name][:, :, None, None].contiguous() for name in flat}}


def _prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def original_state(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder of SD 1.5's classes under their original names, and what else such files carry."""
    return {
        **_named(folder, "unet", UNET, unet_name),
        **_vae_state(folder),
        **_prefixed(TEXT, clip_state(_part(folder, "text_encoder")[0])),
        "alphas_cumprod": torch.linspace(1, 0, 1000),
        "model_ema.decay": torch.tensor(0.9999),
    }


def original_xl_state(folder: Path) -> dict[str, Tensor]:
    """The same of a folder of SDXL's classes."""
    return {
        **_named(folder, "unet", UNET, unet_name),
        **_vae_state(folder),
        **_prefixed(FIRST, clip_state(_part(folder, "text_encoder")[0])),
        **_prefixed(SECOND, open_clip_state(_part(folder, "text_encoder_2")[0])),
        "denoiser.sigmas": torch.linspace(0, 1, 1000),
    }


def original_refiner_state(folder: Path) -> dict[str, Tensor]:
    """The same of a refiner's folder."""
    return {
        **_named(folder, "unet", UNET, unet_name),
        **_vae_state(folder),
        **_prefixed(ALONE, open_clip_state(_part(folder, "text_encoder_2")[0])),
    }


def write_single_file(
    folder: Path,
    file: Path,
    state_of: Callable[[Path], dict[str, Tensor]] = original_state,
    *,
    half: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """`folder` in one file; `half` stores fp16."""
    state = state_of(folder)
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(state, file, metadata)
    return file
