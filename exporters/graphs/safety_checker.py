"""The safety checker of diffusers' StableDiffusionSafetyChecker, with what its feature extractor does to an image.

Dimensions: B rows, h x w pixels, S the side of the square that CLIP sees (224), C concepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the red, green and blue that CLIP was trained on, in 0..1."""
_CUBIC = -0.5
"""The constant of the cubic that Pillow resizes with."""
_WHOLE = float(1 << 22)
"""The weight of a whole pixel: Pillow's weights are whole numbers."""
_NOTICED = 0.0005
"""The lowest score that is above 0 when it is rounded to three digits."""
_SPECIAL = 0.01
"""What is added to the scores of an image with a concept of special care."""


class ServedSafetyChecker(nn.Module):
    """image (B, h, w, 3) uint8 -> score (B, 1) fp32: how far the image is over the threshold of the concept that it is
    nearest to; above 0 once it is rounded to three digits means that diffusers would flag it.

    The image is resized as Pillow does it, the shorter side to S, and its middle is cut out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, checker: StableDiffusionSafetyChecker) -> None:
        super().__init__()
        self.checker = checker
        self.side = int(checker.config.vision_config.image_size)
        self.register_buffer("mean", 255 * torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        pixels = resized(image.permute(0, 3, 1, 2), self.side)
        embeds = self.checker.visual_projection(self.checker.vision_model((pixels - self.mean) / self.std)[1])
        special = _similarity(embeds, self.checker.special_care_embeds) - self.checker.special_care_embeds_weights
        concepts = _similarity(embeds, self.checker.concept_embeds) - self.checker.concept_embeds_weights
        more = (special.amax(1, keepdim=True) >= _NOTICED).float() * _SPECIAL
        score: Tensor = concepts.amax(1, keepdim=True) + more
        return score


def resized(pixels: Tensor, side: int) -> Tensor:
    """(B, 3, h, w) of 0..255 -> (B, 3, side, side): the middle of the image with a shorter side of `side`.

    To the last level what Pillow makes of it: the width first, whole levels after each side, and weights that are whole
    multiples of 2**-22. So the numbers are fp64, in which the sums are exact.
    """
    exact = pixels.double()
    height, width = _size(exact[0, 0, :, 0]), _size(exact[0, 0, 0, :])
    shorter = torch.minimum(height, width)
    across = _weights(width, shorter, exact[0, 0, 0, :], side)
    down = _weights(height, shorter, exact[0, 0, :, 0], side)
    narrow = _levels(exact @ across.transpose(0, 1))
    return _levels(down @ narrow).float()


def _size(line: Tensor) -> Tensor:
    """The number of pixels of a line, as a tensor."""
    return torch.ones_like(line).sum()


def _weights(size: Tensor, shorter: Tensor, line: Tensor, side: int) -> Tensor:
    """(side, size): how much each pixel of a line is in each pixel of the middle of the resized line, times
    _WHOLE."""
    whole = torch.floor(side * size / shorter)
    skipped = torch.floor((whole - side) / 2)
    step = size / whole
    reach = torch.clamp(step, min=1.0)
    centres = (torch.arange(side, dtype=torch.float64) + skipped + 0.5) * step
    places = torch.cumsum(torch.ones_like(line), 0) - 0.5
    weights = _cubic((places[None, :] - centres[:, None]) / reach)
    shares = weights / weights.sum(1, keepdim=True) * _WHOLE
    return torch.sign(shares) * torch.floor(shares.abs() + 0.5)


def _cubic(distance: Tensor) -> Tensor:
    near = distance.abs()
    inside = ((_CUBIC + 2) * near - (_CUBIC + 3)) * near * near + 1
    outside = (((near - 5) * near + 8) * near - 4) * _CUBIC
    return torch.where(near < 1, inside, torch.where(near < 2, outside, torch.zeros_like(near)))


def _levels(sums: Tensor) -> Tensor:
    """Whole levels of 0..255, halves rounded up, of sums with weights times _WHOLE."""
    return torch.floor((sums + _WHOLE / 2) / _WHOLE).clamp(0, 255)


def _similarity(embeds: Tensor, concepts: Tensor) -> Tensor:
    """(B, C) cosines of the angles."""
    normalize = nn.functional.normalize
    return normalize(embeds) @ normalize(concepts).transpose(0, 1)
