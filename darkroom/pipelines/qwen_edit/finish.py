"""From what the model made to the result: cut to size, aligned with the first image, and kept where the mask says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from darkroom.images import Pixels, read_mask
from darkroom.pipelines.qwen_edit.canvas import Canvas, resized
from darkroom.pipelines.qwen_edit.request import ResolvedEdit
from darkroom.pipelines.qwen_edit.settings import Settings

FARTHEST = 0.04
"""Share of a side by which a result may be moved: models shift content by a few pixels; more is what was asked for."""
COMPARED = 1024 * 1024
"""Pixels at which images are compared at most."""
CLEAREST = 0.1
"""Response of the phase correlation (0..1) above which two images show the same content."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Makes the result of a decoded image.

    :param original: the first image at the size of the result, (height, width, 3).
    :param repaint: (height, width), where the result replaces it; None for everywhere.
    """

    canvas: Canvas
    original: Pixels
    repaint: NDArray[np.bool_] | None
    align: bool

    @classmethod
    def of(cls, request: ResolvedEdit, canvas: Canvas, first: Pixels, limits: Settings) -> Finish:
        """The end of a request.

        :param first: the first image, (h, w, 3).
        :raises NotAnImage, TooLarge: the mask is at fault.
        """
        size: dict[str, int] = {"width": request.width, "height": request.height}
        most = limits.max_input_pixels
        mask = None if request.mask is None else read_mask(request.mask, **size, max_pixels=most, param="mask")
        return cls(canvas=canvas, original=resized(first, **size), repaint=mask, align=request.align)

    def __call__(self, made: Pixels) -> tuple[Pixels, Mapping[str, Any]]:
        """(h, w, 3) of the canvas -> (height, width, 3), and the displacement that was taken back, in whole pixels."""
        result, details = self.canvas.cut(made), {}
        if self.align:
            move = whole_move(self.original, result, displacement(self.original, result))
            result = moved(result, move)
            details = {"displacement": list(move)}
        if self.repaint is not None:
            result = np.where(self.repaint[..., None], result, self.original)
        return result, details


def _distance(first: Pixels, second: Pixels) -> float:
    return float(cv2.norm(first, second, cv2.NORM_L1))


def displacement(original: Pixels, result: Pixels) -> tuple[float, float]:
    """By how many pixels, to the right and down, the content of `result` lies beside where it is in `original`.

    Phase correlation (Kuglin and Hines 1975), OpenCV's, on grey values; (0, 0) where the images differ too much to
    tell, or lie farther apart than models shift. Images above COMPARED are compared at that size: no model makes more,
    and an image of 12 megapixels would take a gigabyte.
    """
    height, width = original.shape[:2]
    if min(width, height) < 2:
        return 0.0, 0.0
    first, second = (_grey(image) for image in (original, result))
    window = cv2.createHanningWindow(first.shape[::-1], cv2.CV_64F)
    (right, down), response = cv2.phaseCorrelate(first, second, window)
    right, down = right * width / first.shape[1], down * height / first.shape[0]
    near = abs(right) <= FARTHEST * width and abs(down) <= FARTHEST * height
    return (float(right), float(down)) if near and response >= CLEAREST else (0.0, 0.0)


def _grey(image: Pixels) -> NDArray[np.float64]:
    """The grey values of an image, at a size of at most COMPARED."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = math.sqrt(COMPARED / grey.size)
    if scale < 1:
        size = (max(2, int(grey.shape[1] * scale)), max(2, int(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.float64)


def whole_move(original: Pixels, result: Pixels, move: tuple[float, float]) -> tuple[int, int]:
    """The displacement in whole pixels: of those around `move` that without which `result` is most like `original`, or
    (0, 0). Where a pattern repeats, phase correlation is up to a pixel off.

    :param move: what `displacement` has found; (0, 0) stays.
    """
    if move == (0.0, 0.0):
        return 0, 0
    right, down = round(move[0]), round(move[1])
    around = [(right + x, down + y) for x in (0, -1, 1) for y in (0, -1, 1)]
    return min([(0, 0), *around], key=lambda one: _distance(moved(result, one), original))


def moved(result: Pixels, move: tuple[float, float]) -> Pixels:
    """`result` without a displacement, by whole pixels, so that nothing is blurred.

    Its edge is repeated where nothing is known.
    """
    height, width = result.shape[:2]
    right, down = round(move[0]), round(move[1])
    left, top = max(0, right), max(0, down)
    wide = np.pad(result, ((max(0, -down), top), (max(0, -right), left), (0, 0)), mode="edge")
    return wide[top : top + height, left : left + width]
