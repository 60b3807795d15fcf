"""What checkpoints with a UNet and a VAE in the diffusers folder layout say besides their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.request.fields import Bounds
from exporters.checkpoints.components import INDEX, SCHEDULER, Component, class_of, expect
from exporters.checkpoints.files import read_json
from exporters.errors import ExportError

GENERATION = "generation_config.json"
"""A file that a checkpoint may have: {"guidance_scale": 2.0} for requests that name none."""


def check_class(root: Path, index: Mapping[str, Any], part: str, kind: str, family: str) -> None:
    """Check that a model_index.json names a class for a part.

    :param index: its content.
    :param family: its title, for the error.
    :raises ExportError: it names another one, or has no such part.
    """
    if class_of(index, part) != kind:
        raise other_kind(root, index, part, kind, family)


def other_kind(root: Path, index: Mapping[str, Any], part: str, kind: str, family: str) -> ExportError:
    """Return the error for a checkpoint of another kind; see `check_class`."""
    return ExportError(
        f"{root.name} is no checkpoint of the {family} kind: {INDEX} says {index.get('_class_name', 'no class')} with "
        f"{part} {class_of(index, part) or 'missing'}; expected one {kind}."
    )


def check_unet(
    unet: Component, *, channels: int, conditions: Mapping[str, Any], width: int, why: str, inpaints: bool = False
) -> None:
    """Check that a UNet has `channels` latent channels, and attends to embeddings of this width.

    :param inpaints: whether it may read a mask and a masked image behind the latents.
    :param conditions: what its config.json has to say of further inputs; None = nothing.
    :param why: what the width is, for the error.
    :raises ExportError: it is another one.
    """
    if not (inpaints and is_for_inpainting(unet, channels)):
        other = f"or {inpainting_channels(channels)} for inpainting" if inpaints else ""
        expect(unet, "in_channels", channels, default=channels, why=other)
    expect(unet, "out_channels", channels, default=channels)
    for name, wanted in conditions.items():
        expect(unet, name, wanted)
    expect(unet, "cross_attention_dim", width, why=why)


def inpainting_channels(channels: int) -> int:
    """The channels that the UNet of a checkpoint for inpainting reads: latents, a mask, and a masked image as latents.

    :param channels: of the latents.
    """
    return 2 * channels + 1


def is_for_inpainting(unet: Component, channels: int) -> bool:
    """Whether a UNet reads a mask and a masked image behind the latents.

    :param channels: of the latents.
    """
    return bool(unet.config.get("in_channels") == inpainting_channels(channels))


def check_vae(vae: Component, *, channels: int, factor: int) -> None:
    """Check that a VAE has `channels` latent channels, and `factor` pixels per latent along each side.

    :raises ExportError: it is another one.
    """
    expect(vae, "latent_channels", channels, default=4)
    for name in ("in_channels", "out_channels"):
        expect(vae, name, 3, default=3)
    found = 2 ** (len(vae.config.get("block_out_channels", (64,))) - 1)
    if found != factor:
        raise ExportError(
            f"{vae.root.name}: the VAE makes images {found} times the size of the latents, expected {factor} times."
        )


def read_scheduler(root: Path) -> dict[str, Any]:
    """scheduler_config.json.

    :raises ExportError: it is missing or damaged, or names no class.
    """
    config = read_json(root, SCHEDULER)
    if "_class_name" not in config:
        raise ExportError(f"{root.name}/{SCHEDULER} names no scheduler class.")
    return config


def generation_files(root: Path) -> tuple[str, ...]:
    """GENERATION where the checkpoint has it."""
    return (GENERATION,) if (root / GENERATION).is_file() else ()


def generation_value(root: Path, name: str, usual: float, bounds: Bounds) -> float:
    """A number from GENERATION; `usual` where the checkpoint has none.

    :raises ExportError: it is no number in the range of requests; where `usual` is a whole number, no whole number.
    """
    if not generation_files(root):
        return usual
    value = read_json(root, GENERATION).get(name, usual)
    low, high = bounds
    kinds = int if isinstance(usual, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if isinstance(usual, int) else "a number"
        raise ExportError(f"{root.name}/{GENERATION}: {name} must be {what} from {low:g} to {high:g}; got {value!r}.")
    return value


def side_of(unet: Mapping[str, Any], factor: int) -> int:
    """Width and height in pixels that a UNet was trained at.

    :param unet: its config.json.
    :param factor: pixels per latent along each side.
    """
    size = unet.get("sample_size") or 64
    return int(size if isinstance(size, int) else size[0]) * factor
