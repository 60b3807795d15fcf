"""A ControlNet in the diffusers layout: a folder with config.json and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.checkpoints.components import DIFFUSERS_STEMS, Component, expect, read_component
from exporters.errors import ExportError

KIND = "ControlNetModel"
PATTERNS = ("config.json", "diffusion_pytorch_model*")
"""The files that an export reads."""


def read_controlnet(
    root: Path, unet: Component, *, channels: int, factor: int, conditions: Mapping[str, Any], same: tuple[str, ...]
) -> Component:
    """Check a ControlNet's folder and that it suits the UNet, without reading its weights.

    :param channels: of the latents.
    :param factor: pixels of the control map for each latent along each side.
    :param conditions: what its config.json has to say of further inputs; None = nothing.
    :param same: entries of config.json that have to be those of the UNet.
    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    controlnet = read_component(root, "", KIND, DIFFUSERS_STEMS)
    expect(controlnet, "in_channels", channels, default=channels)
    expect(controlnet, "conditioning_channels", 3, default=3)
    expect(controlnet, "global_pool_conditions", False, default=False)
    for name, wanted in conditions.items():
        expect(controlnet, name, wanted)
    if 2 ** (len(controlnet.config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1) != factor:
        raise ExportError(f"{root.name}: the ControlNet does not read images {factor} times the size of the latents.")
    for name in same:
        if controlnet.config.get(name) != unet.config.get(name):
            raise ExportError(
                f"The ControlNet {root.name} does not fit the UNet of {unet.root.name}: {name} is "
                f"{controlnet.config.get(name)}, the UNet's is {unet.config.get(name)}."
            )
    return controlnet
