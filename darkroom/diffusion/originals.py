"""Images that requests change: from pixels to the latents that the loop begins with, and what a mask keeps of them.

Follows diffusers 0.42, pipelines/stable_diffusion/pipeline_stable_diffusion_img2img.py and
pipeline_stable_diffusion_inpaint.py for UNets of four channels, which the pipelines of Stable Diffusion XL repeat. What
differs: row k draws from the k-th generator alone with a mask, too, as it does in diffusers when each row gets an image
of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darkroom.diffusion.sampling import Keep, Schedule, get_noise, initial_latents
from darkroom.errors import InvalidInput
from darkroom.images import Pixels, read_mask, read_rgb
from darkroom.request.init_image import InitImageRequest
from darkroom.serving.networks import Network


class InitLimits(Protocol):
    """Limits of the images that a request gives."""

    @property
    def max_init_pixels(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class InitPixels:
    """The decoded images of a request, at the size of the result.

    :param image: (height, width, 3) uint8.
    :param repaint: (height, width); None where there is no mask.
    """

    image: Pixels
    repaint: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class Original:
    """An image that is changed, as latents.

    :param latents: (n, channels, h, w).
    :param strength: 0..1.
    :param repaint: (1, 1, h, w), 1 where the mask has it painted again and 0 where it is kept; None without a mask.
    """

    latents: Tensor
    strength: float
    repaint: Tensor | None

    def begin(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """What the first step starts from: the image with the noise of its timestep; the image itself where there is
        no step. With a mask and full strength it is noise alone."""
        if not len(schedule):
            return self.latents
        if self.repaint is not None and self.strength >= 1:
            return initial_latents(noise, schedule)
        times = schedule.timesteps[:1].repeat(len(noise))
        noisy: Tensor = schedule.scheduler.add_noise(self.latents, noise, times)
        return noisy

    def keep(self, noise: Tensor) -> Keep | None:
        """Puts the image, with noise as the next step expects it, where the mask keeps it; after the last step without.

        :param noise: the same at all steps.
        """
        repaint = self.repaint
        if repaint is None:
            return None

        def kept(latents: Tensor, schedule: Schedule, index: int) -> Tensor:
            known = self.latents
            if index + 1 < len(schedule):
                known = schedule.scheduler.add_noise(known, noise, schedule.timesteps[index + 1 : index + 2])
            return (1 - repaint) * known + repaint * latents

        return kept


async def read_init(request: InitImageRequest, limits: InitLimits, encoder: Network | None) -> InitPixels | None:
    """Decode the images of a request whose width and height are known; None where it has none.

    :param encoder: of the VAE, if this installation has it.
    :raises InvalidInput: there is no encoder.
    :raises NotAnImage, TooLarge: names the field.
    """
    if request.init_image is None:
        return None
    if encoder is None:
        raise InvalidInput(
            "init_image needs a VAE encoder, and this installation has none; export the checkpoint again.",
            param="init_image",
        )
    size: dict[str, Any] = {"width": request.width, "height": request.height, "max_pixels": limits.max_init_pixels}
    image = await asyncio.to_thread(read_rgb, request.init_image, **size, param="init_image")
    if request.mask is None:
        return InitPixels(image=image, repaint=None)
    repaint = await asyncio.to_thread(read_mask, request.mask, **size, param="mask")
    return InitPixels(image=image, repaint=repaint)


async def draw_noise(
    init: InitPixels | None,
    encoder: Network | None,
    generators: Sequence[torch.Generator],
    *,
    shape: tuple[int, int, int],
    strength: float,
) -> tuple[Tensor, Original | None]:
    """The noise of a request, (n, *shape), and the image that it changes, if there is one.

    :param encoder: image (n, height, width, 3) uint8 -> mean and std of the posterior, float32.
    :param generators: one for each image of the result. They draw what diffusers' do, in its order.
    :param shape: of the latents: channels, height, width.
    """
    if init is None:
        return get_noise(generators, shape), None
    assert encoder is not None, "read_init has looked"
    answer = await encoder({"image": init.image[None]})
    mean, std = (torch.from_numpy(answer[name]) for name in ("mean", "std"))
    latents = mean + std * get_noise(generators, shape)
    noise = get_noise(generators, shape)
    if init.repaint is None:
        return noise, Original(latents=latents, strength=strength, repaint=None)
    get_noise(generators, shape)  # for the masked image, which diffusers encodes for all UNets, though few read it
    factor = init.repaint.shape[0] // shape[1]
    # The nearest pixel, as in diffusers: the first one of each latent's.
    small = np.ascontiguousarray(init.repaint[::factor, ::factor], np.float32)
    return noise, Original(latents=latents, strength=strength, repaint=torch.from_numpy(small)[None, None])


def init_details(request: InitImageRequest) -> dict[str, Any]:
    """What an image carries of how another one was changed."""
    return {} if request.init_image is None else {"strength": request.strength, "masked": request.mask is not None}
