"""What a ControlNet adds to its UNet, as a part of one graph. Dimensions as in the families' graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from diffusers import ControlNetModel


def residuals(
    controlnet: ControlNetModel,
    sample: Tensor,
    timestep: Tensor,
    embeds: Tensor,
    control_image: Tensor,
    scale: Tensor,
    **more: Any,
) -> dict[str, Any]:
    """The arguments of the UNet that are made of a control map.

    :param sample: (B, K, h, w), of which the ControlNet reads the latents alone: the UNet of a checkpoint for
        inpainting reads a mask and an image behind them.
    :param timestep: (B,).
    :param embeds: (B, T, C) in the type of the weights, as `sample`.
    :param control_image: (B, 8h, 8w, 3) uint8.
    :param scale: (B, 1) fp32: the factor of each row's residuals.
    :param more: further arguments of the ControlNet, as the UNet's.
    """
    kind = controlnet.dtype
    picture = (control_image.permute(0, 3, 1, 2).float() / 255).to(kind)
    latents = sample[:, : controlnet.config.in_channels]
    down, middle = controlnet(latents, timestep, embeds, controlnet_cond=picture, return_dict=False, **more)
    factor = scale[:, :, None, None].to(kind)
    return {
        "down_block_additional_residuals": [residual * factor for residual in down],
        "mid_block_additional_residual": middle * factor,
    }
