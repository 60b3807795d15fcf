"""The checkpoint of `tests.sd15_checkpoints` in one file, under the names of CompVis' original code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporters.checkpoints.files import read_json
from tests.sd15_checkpoints import TEXT, UNET, VAE

_RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
_TRANSFORMER = tuple(
    f"transformer_blocks.0.{name}"
    for name in (
        *(f"attn{k}.to_{letter}" for k in (1, 2) for letter in ("q", "k", "v", "out.0")),
        *("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"),
    )
)
_ATTENTION = ("norm", "proj_in", "proj_out", *_TRANSFORMER)
_VAE_RESNET = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
_VAE_ATTENTION = ("norm", "q", "k", "v", "proj_out")


def _unet_layers() -> Iterator[str]:
    """Of three levels with one layer each; attention in the first one and in the middle."""
    yield from ("time_embed.0", "time_embed.2", "out.0", "out.2", "input_blocks.0.0")
    for block in (1, 3, 5, *()):
        yield from (f"input_blocks.{block}.0.{name}" for name in _RESNET)
    yield from (f"input_blocks.1.1.{name}" for name in _ATTENTION)
    yield from ("input_blocks.2.0.op", "input_blocks.4.0.op")
    for block in (0, 2):
        yield from (f"middle_block.{block}.{name}" for name in _RESNET)
    yield from (f"middle_block.1.{name}" for name in _ATTENTION)
    for block in range(6):
        yield from (f"output_blocks.{block}.0.{name}" for name in _RESNET)
    yield from ("output_blocks.1.1.conv", "output_blocks.3.1.conv")


def _vae_layers() -> Iterator[str]:
    """Of four levels."""
    yield from ("quant_conv", "post_quant_conv")
    for half, way, change, blocks, levels in (
        ("encoder", "down", "downsample", 2, (0, 1, 2)),
        ("decoder", "up", "upsample", 3, (1, 2, 3)),
    ):
        yield from (f"{half}.{name}" for name in ("conv_in", "norm_out", "conv_out"))
        yield from (f"{half}.mid.block_{k}.{name}" for k in (1, 2) for name in _VAE_RESNET)
        yield from (f"{half}.mid.attn_1.{name}" for name in _VAE_ATTENTION)
        yield from (
            f"{half}.{way}.{level}.block.{block}.{name}"
            for level in range(4)
            for block in range(blocks)
            for name in _VAE_RESNET
        )
        yield from (f"{half}.{way}.{level}.{change}.conv" for level in levels)


def _names(layers: Iterator[str], prefix: str) -> list[str]:
    return [f"{prefix}{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def original_state(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder under their original names; which is which, diffusers' own translation tells."""
    state: dict[str, Tensor] = {}
    for file, part, layers, prefix, translate in (
        (UNET, "unet", _unet_layers(), "model.diffusion_model.", single_file_utils.convert_ldm_unet_checkpoint),
        (VAE, "vae", _vae_layers(), "first_stage_model.", single_file_utils.convert_ldm_vae_checkpoint),
    ):
        names = _names(layers, prefix)
        numbered = {name: torch.tensor([float(index)]) for index, name in enumerate(names)}
        meant = translate(numbered, read_json(folder, f"{part}/config.json"))
        weights = load_file(folder / file)
        assert weights.keys() <= meant.keys()
        for name, value in weights.items():
            original = names[int(meant[name].item())]
            # The original has its VAE's attention as convolutions of one pixel.
            flat = ".mid.attn_1." in original and value.ndim == 2
            state[original] = value[:, :, None, None].contiguous() if flat else value
    for name, value in load_file(folder / TEXT).items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return state


def write_single_file(folder: Path, file: Path) -> Path:
    """`folder` in one file."""
    save_file(original_state(folder), file)
    return file
