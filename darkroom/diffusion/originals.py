"""Images that requests change: from pixels to the latents that the loop begins with, and what a mask keeps of them.

Follows diffusers 0.42, pipelines/stable_diffusion/pipeline_stable_diffusion_img2img.py and
pipeline_stable_diffusion_inpaint.py, which the pipelines of Stable Diffusion XL repeat. What differs: row k draws from
the k-th generator alone with a mask, too, as it does in diffusers when each row gets an image of its own.

A UNet for inpainting reads the mask and the rest of the image behind the latents at each step, and makes the whole
image; with any other UNet the loop itself puts the image back where the mask keeps it. A request without a mask, or
without an image, is to a UNet for inpainting one whose mask is white everywhere.
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

from darkroom.diffusion.guidance import doubled
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
    :param strength: 0..1.
    :param conditions: whether the UNet reads mask and image at each step; then there is a mask.
    """

    image: Pixels
    repaint: NDArray[np.bool_] | None
    strength: float
    conditions: bool = False


@dataclass(frozen=True, kw_only=True)
class Original:
    """An image that is changed, as latents.

    :param latents: (n, channels, h, w).
    :param strength: 0..1.
    :param repaint: (1, 1, h, w), 1 where the mask has it painted again and 0 where it is kept; None where the loop
        keeps nothing.
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


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a request begins with.

    :param noise: (n, channels, h, w).
    :param original: the image that is changed; None where the first step starts from noise alone.
    :param conditions: (n, 1 + channels, h, w): the mask, 1 where the image is painted again, and the latents of the
        rest of the image; None where the UNet does not read them.
    """

    noise: Tensor
    original: Original | None
    conditions: Tensor | None = None


async def read_init(
    request: InitImageRequest, limits: InitLimits, encoder: Network | None, *, conditions: bool = False
) -> InitPixels | None:
    """Decode the images of a request whose width and height are known; None where the loop begins with noise alone.

    :param encoder: of the VAE, if this installation has it.
    :param conditions: whether the first UNet of the loop is one for inpainting.
    :raises InvalidInput: there is no encoder.
    :raises NotAnImage, TooLarge: names the field.
    """
    if request.init_image is None and not conditions:
        return None
    if encoder is None:
        what = "init_image" if request.init_image is not None else "A checkpoint for inpainting"
        raise InvalidInput(
            f"{what} needs a VAE encoder, and this installation has none; export the checkpoint again.",
            param="init_image" if request.init_image is not None else None,
        )
    assert request.width is not None
    assert request.height is not None
    everything = np.ones((request.height, request.width), np.bool_)
    if request.init_image is None:
        nothing = np.zeros((*everything.shape, 3), np.uint8)
        return InitPixels(image=nothing, repaint=everything, strength=1.0, conditions=True)
    size: dict[str, Any] = {"width": request.width, "height": request.height, "max_pixels": limits.max_init_pixels}
    image = await asyncio.to_thread(read_rgb, request.init_image, **size, param="init_image")
    repaint = everything if conditions else None
    if request.mask is not None:
        repaint = await asyncio.to_thread(read_mask, request.mask, **size, param="mask")
    return InitPixels(image=image, repaint=repaint, strength=request.strength, conditions=conditions)


async def draw_noise(
    init: InitPixels | None,
    encoder: Network | None,
    generators: Sequence[torch.Generator],
    *,
    shape: tuple[int, int, int],
) -> Drawn:
    """The noise of a request, and what is made of the image that it changes.

    :param encoder: image (n, height, width, 3) uint8 -> mean and std of the posterior, float32.
    :param generators: one for each image of the result. They draw what diffusers' do, in its order.
    :param shape: of the latents: channels, height, width.
    """
    if init is None:
        return Drawn(noise=get_noise(generators, shape), original=None)
    assert encoder is not None, "read_init has looked"
    if init.conditions:
        return await _conditioned(init, encoder, generators, shape)
    mean, std = await _posterior(encoder, init.image[None])
    latents = mean + std * get_noise(generators, shape)
    noise = get_noise(generators, shape)
    if init.repaint is None:
        return Drawn(noise=noise, original=Original(latents=latents, strength=init.strength, repaint=None))
    get_noise(generators, shape)  # for the masked image, which diffusers encodes for all UNets, though few read it
    repaint = _small(init.repaint, shape)
    return Drawn(noise=noise, original=Original(latents=latents, strength=init.strength, repaint=repaint))


async def _conditioned(
    init: InitPixels, encoder: Network, generators: Sequence[torch.Generator], shape: tuple[int, int, int]
) -> Drawn:
    """For a UNet for inpainting. With full strength the image itself is not encoded."""
    assert init.repaint is not None
    original = None
    if init.strength < 1:
        mean, std = await _posterior(encoder, init.image[None])
        latents = mean + std * get_noise(generators, shape)
        original = Original(latents=latents, strength=init.strength, repaint=None)
    noise = get_noise(generators, shape)
    mean, std = await _posterior(encoder, _without(init.image, init.repaint))
    # Diffusers paints the part that goes in the middle grey 127.5, which no image of 8 bits has: 127 and 128 do.
    rest = mean.mean(0, keepdim=True) + std.mean(0, keepdim=True) * get_noise(generators, shape)
    repaint = _small(init.repaint, shape).expand(len(noise), -1, -1, -1)
    return Drawn(noise=noise, original=original, conditions=torch.cat([repaint, rest], dim=1))


async def _posterior(encoder: Network, images: Pixels) -> tuple[Tensor, Tensor]:
    answer = await encoder({"image": images})
    return torch.from_numpy(answer["mean"]), torch.from_numpy(answer["std"])


def _without(image: Pixels, repaint: NDArray[np.bool_]) -> Pixels:
    """(2, height, width, 3): the image twice, with either grey next to the middle where it is painted again."""
    greys = np.array([127, 128], np.uint8)[:, None, None, None]
    return np.where(repaint[None, :, :, None], greys, image[None])


def _small(repaint: NDArray[np.bool_], shape: tuple[int, int, int]) -> Tensor:
    """(1, 1, h, w): the mask at the size of the latents: the nearest pixel, as in diffusers, the first one of each
    latent's."""
    factor = repaint.shape[0] // shape[1]
    small = np.ascontiguousarray(repaint[::factor, ::factor], np.float32)
    return torch.from_numpy(small)[None, None]


def unet_rows(latents: Tensor, conditions: Tensor | None, *, guided: bool) -> NDArray[Any]:
    """What a UNet reads as `latents`.

    :param latents: (n, channels, h, w), as the step has them.
    :param conditions: see `Drawn`.
    :param guided: whether there are two rows for each image.
    """
    read = latents if conditions is None else torch.cat([latents, conditions], dim=1)
    rows: NDArray[Any] = (doubled(read) if guided else read).numpy()
    return rows


def init_details(request: InitImageRequest) -> dict[str, Any]:
    """What an image carries of how another one was changed."""
    return {} if request.init_image is None else {"strength": request.strength, "masked": request.mask is not None}
