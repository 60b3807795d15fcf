"""Cut an image into overlapping windows that all have one shape, so that any of them can share a batch.

Other tilers cut fixed cores and give border tiles other shapes. Here the image is divided evenly, and a window that
reaches over the image's border sees the image mirrored there: a network that sees its zero padding instead gets the
outermost pixels wrong.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEP = 8  # window sides are rounded up to this: fewer distinct shapes for batches to split on


@dataclass(frozen=True, kw_only=True)
class Span:
    """Along one axis: the network reads start..stop, and of its output only core_start..core_stop is kept.

    `start` may be negative and `stop` beyond the image's end; the cores divide the image.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A window of the image: the spans of its rows and its columns."""

    rows: Span
    columns: Span


def spans(length: int, tile: int, pad: int) -> list[Span]:
    """Divide `length` pixels into cores of at most `tile`, each read with at least `pad` pixels on either side.

    All windows are equally long.

    :param tile: at least 1, or 0 for one window over everything.
    """
    count = 1 if tile == 0 else -(-length // tile)
    core = -(-length // count)
    window = -(-(core + 2 * pad) // _STEP) * _STEP
    cuts = [round(i * length / count) for i in range(count + 1)]
    found = []
    for first, last in itertools.pairwise(cuts):
        start = first - (window - (last - first)) // 2
        found.append(Span(start=start, stop=start + window, core_start=first, core_stop=last))
    return found


def tiles(height: int, width: int, *, tile: int, pad: int) -> list[Tile]:
    """All windows of an image, row by row."""
    return [
        Tile(rows=rows, columns=columns) for rows in spans(height, tile, pad) for columns in spans(width, tile, pad)
    ]


def cut(source: NDArray[np.uint8], window: Tile) -> NDArray[np.uint8]:
    """The window of an image as a batch of one.

    :param source: (height, width, 3), or (height, width), which is repeated to three channels.
    :returns: (1, window height, window width, 3).
    """
    rows = _mirrored(window.rows, source.shape[0])
    columns = _mirrored(window.columns, source.shape[1])
    part = source[rows[:, None], columns]
    return np.ascontiguousarray(part if part.ndim == 3 else np.repeat(part[..., None], 3, axis=2))[None]


def paste(enlarged: NDArray[np.uint8], target: NDArray[np.uint8], window: Tile, scale: int) -> None:
    """Copy the core of an enlarged window to its place.

    :param enlarged: (window height x scale, window width x scale, 3).
    :param target: the whole result, (height x scale, width x scale, 3); without channels it takes the green.
    """
    part = enlarged[_core(window.rows, scale), _core(window.columns, scale)]
    rows = slice(window.rows.core_start * scale, window.rows.core_stop * scale)
    columns = slice(window.columns.core_start * scale, window.columns.core_stop * scale)
    target[rows, columns] = part if target.ndim == 3 else part[..., 1]


def _mirrored(span: Span, length: int) -> NDArray[np.intp]:
    """The positions of a span, those outside reflected at the outermost pixels (as numpy.pad's "reflect")."""
    period = max(1, 2 * (length - 1))
    positions = np.arange(span.start, span.stop) % period
    return np.minimum(positions, period - positions)


def _core(span: Span, scale: int) -> slice:
    return slice((span.core_start - span.start) * scale, (span.core_stop - span.start) * scale)
