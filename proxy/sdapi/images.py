"""Images on their way between AUTOMATIC1111's API and our operations. All of it takes time: call it in a thread."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from darkroom.images import Picture, Pixels, decode, encode, resize
from darkroom.png import encode_png

Size = tuple[int, int]
"""Width and height."""


def mask_of(data: bytes, *, inverted: bool, max_pixels: int) -> bytes:
    """A mask of the web UI as a grey PNG: white is painted again, as our masks without transparency have it.

    There a mask with transparency says it by its alpha: opaque is painted again. With us transparent is.

    :param inverted: whether black is painted again.
    :raises NotAnImage, TooLarge: names `mask`.
    """
    picture = decode(data, max_pixels=max_pixels, param="mask")
    if picture.alpha is not None and picture.alpha.min() < 255:
        grey = picture.alpha
    else:
        grey = np.asarray(Image.fromarray(picture.rgb).convert("L"))
    return encode_png((np.invert(grey) if inverted else grey)[..., None])


def cropped_to(data: bytes, size: Size, *, max_pixels: int, param: str) -> bytes:
    """An image as PNG, cut to the proportions of `size` around its middle, and not resized.

    :raises NotAnImage, TooLarge: names `param`.
    """
    picture = decode(data, max_pixels=max_pixels, param=param)
    height, width = picture.rgb.shape[:2]
    scale = min(width / size[0], height / size[1])
    return _png(_cut(picture, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))))


def fitted(data: bytes, scaled: Size, size: Size, *, max_pixels: int, nearest: bool = False) -> bytes:
    """An image as PNG, resized to `scaled` and then cut to `size` around its middle.

    :param nearest: repeat pixels in place of Lanczos.
    """
    picture = decode(data, max_pixels=max_pixels)
    height, width = picture.rgb.shape[:2]
    if (width, height) != scaled:
        picture = _repeated(picture, scaled) if nearest else resize(picture, width=scaled[0], height=scaled[1])
    return _png(_cut(picture, size))


def blended(first: bytes, second: bytes, share: float, *, max_pixels: int) -> bytes:
    """Two images of one size as one PNG.

    :param share: of the second one, 0..1.
    """
    below, above = decode(first, max_pixels=max_pixels), decode(second, max_pixels=max_pixels)

    def mixed(one: Pixels, other: Pixels) -> Pixels:
        return np.asarray(Image.blend(Image.fromarray(one), Image.fromarray(other), share))

    alpha = None
    if below.alpha is not None and above.alpha is not None:
        alpha = mixed(below.alpha, above.alpha)
    rgb = mixed(below.rgb, above.rgb)
    return _png(Picture(rgb=rgb, alpha=alpha, grey=below.grey, icc_profile=below.icc_profile))


def scaled_size(size: Size, scale: float) -> Size:
    """The size of an enlarged image: rounded half up, at least one pixel a side."""
    return max(1, math.floor(size[0] * scale + 0.5)), max(1, math.floor(size[1] * scale + 0.5))


def _repeated(picture: Picture, size: Size) -> Picture:
    def one(plane: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.NEAREST))

    alpha = None if picture.alpha is None else one(picture.alpha)
    return Picture(rgb=one(picture.rgb), alpha=alpha, grey=picture.grey, icc_profile=picture.icc_profile)


def _cut(picture: Picture, size: Size) -> Picture:
    height, width = picture.rgb.shape[:2]
    left, top = max(0, (width - size[0]) // 2), max(0, (height - size[1]) // 2)
    rows, columns = slice(top, top + size[1]), slice(left, left + size[0])
    alpha = None if picture.alpha is None else picture.alpha[rows, columns]
    return Picture(rgb=picture.rgb[rows, columns], alpha=alpha, grey=picture.grey, icc_profile=picture.icc_profile)


def _png(picture: Picture) -> bytes:
    return encode(picture, format="png", quality=100)
