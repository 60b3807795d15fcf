"""Colours for previews: a straight line from the channels of a latent to the mean colour of its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

PICTURES = 24
SIDE = 128
_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A least squares fit.

    :param matrix: (channels + 1) x 3: red, green and blue (0..1) per latent channel, then a constant.
    :param error: root mean square of what it misses, 0..1.
    """

    matrix: list[list[float]]
    error: float


def pictures(count: int = PICTURES, side: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """Synthetic images (count, side, side, 3) of all hues: gradients with blocks and round shapes, half of them soft.

    Drawn by a seeded generator: the same on every machine.
    """
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        first, second = random.uniform(0, 255, (2, 3))
        angle = random.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:side, 0:side] / side - 0.5
        share = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
        image = Image.fromarray((first + (second - first) * share).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(random.integers(1, 7)):
            left, top = random.integers(-side // 4, side, 2).tolist()
            width, height = random.integers(side // 8, side // 2, 2).tolist()
            colour = tuple(random.integers(0, 256, 3).tolist())
            shape = draw.rectangle if random.random() < 0.5 else draw.ellipse
            shape((left, top, left + width, top + height), fill=colour)
        soft = image.filter(ImageFilter.GaussianBlur(side / 32))
        made.append(np.asarray(soft if index % 2 else image))
    return np.stack(made)


def fit(vae: AutoencoderKL) -> Fit:
    """Fit the colours of this VAE's own images: each is encoded, and decoded again from the mean of its posterior.

    The latents of the fit are those of the loop: without the VAE's shift, times its scaling factor.
    """
    shift, factor = float(getattr(vae.config, "shift_factor", None) or 0.0), vae.config.scaling_factor

    def encode(images: Tensor) -> Tensor:
        mean: Tensor = vae.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
        return (mean - shift) * float(factor)

    def decode(latents: Tensor) -> Tensor:
        decoded: Tensor = vae.decode(latents / factor + shift, return_dict=False)[0]
        return (decoded * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255

    return fit_to(encode, decode)


def fit_to(encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]) -> Fit:
    """The same for any VAE.

    :param encode: images (n, height, width, 3) uint8 to the latents of the loop (n, channels, h, w).
    :param decode: the way back, to images of 0..255.
    """
    import torch

    rows, colours = [], []
    with torch.no_grad():
        for batch in np.split(pictures(), PICTURES // _BATCH):
            latents = encode(torch.from_numpy(batch))
            decoded = decode(latents).permute(0, 3, 1, 2).float() / 255
            blocks = torch.nn.functional.avg_pool2d(decoded, SIDE // latents.shape[-1])
            rows.append(latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]))
            colours.append(blocks.permute(0, 2, 3, 1).reshape(-1, 3))
    known = torch.cat(rows).double().numpy()
    wanted = torch.cat(colours).double().numpy()
    design = np.concatenate([known, np.ones((len(known), 1))], axis=1)
    matrix = np.linalg.lstsq(design, wanted, rcond=None)[0]
    error = float(np.sqrt(np.mean((design @ matrix - wanted) ** 2)))
    return Fit(matrix=matrix.round(5).tolist(), error=error)
