"""Cut a picture into overlapping windows that all have one shape, so that any of them can share a batch.

Real-ESRGAN's own tiler (`RealESRGANer.tile_process`) cuts fixed cores and gives border tiles other shapes. Here
the picture is divided evenly, and a window at the border is moved inwards instead of being made smaller.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

_STEP = 8  # window sides are rounded up to this: fewer distinct shapes for engines to prepare


@dataclass(frozen=True, kw_only=True)
class Span:
    """Along one axis: the network reads start..stop, and of its output only core_start..core_stop is kept."""

    start: int
    stop: int
    core_start: int
    core_stop: int


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A window of the picture: the spans of its rows and its columns."""

    rows: Span
    columns: Span


def spans(length: int, tile: int, pad: int) -> list[Span]:
    """Divide `length` pixels into cores of at most `tile`, each read with at least `pad` pixels around it.

    All windows are equally long. Less than `pad` pixels surround a core only where the picture ends.

    :param tile: at least 1, or 0 for one window over everything.
    """
    count = 1 if tile == 0 else -(-length // tile)
    if count == 1:
        return [Span(start=0, stop=length, core_start=0, core_stop=length)]
    core = -(-length // count)
    padded = core + (pad if count == 2 else 2 * pad)  # of two windows each has the picture's end on one side
    window = min(length, -(-padded // _STEP) * _STEP)
    cuts = [round(i * length / count) for i in range(count + 1)]
    found = []
    for first, last in itertools.pairwise(cuts):
        start = min(max(0, first - (window - (last - first)) // 2), length - window)
        found.append(Span(start=start, stop=start + window, core_start=first, core_stop=last))
    return found


def tiles(height: int, width: int, *, tile: int, pad: int) -> list[Tile]:
    """All windows of a picture, row by row."""
    return [
        Tile(rows=rows, columns=columns) for rows in spans(height, tile, pad) for columns in spans(width, tile, pad)
    ]
