"""The loss of a training as a picture: an SVG of a few kilobytes, however many steps there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 36
"""Margins in pixels."""
_MOST_POINTS = 400
_SMOOTHING = 20
"""The mean is taken over this share of the steps: one of so many."""

Values = NDArray[np.float64]


def loss_curve(losses: Sequence[float]) -> bytes:
    """The loss of each step, thin, and its moving mean, thick.

    :param losses: finite numbers, one for each step.
    """
    values = np.asarray(losses, np.float64)
    steps = np.arange(1, len(values) + 1)
    mean = _moving_mean(values, max(1, len(values) // _SMOOTHING))
    most = float(values.max(initial=0.0)) or 1.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_axes(len(values), most),
        _line(*_thinned(steps, values), len(values), most, 'stroke="#9bbbe0" stroke-width="1"'),
        _line(*_thinned(steps, mean), len(values), most, 'stroke="#1f5aa6" stroke-width="2"'),
        "</svg>",
    ]
    return "\n".join(lines).encode() + b"\n"


def _moving_mean(values: Values, window: int) -> Values:
    """The mean of up to `window` values until each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    mean: Values = (sums[ends] - sums[starts]) / (ends - starts)
    return mean


def _thinned(steps: NDArray[np.int64], values: Values) -> tuple[Values, Values]:
    """At most `_MOST_POINTS` points, the means of neighbours."""
    parts = min(len(values), _MOST_POINTS)
    if not parts:
        return np.empty(0), np.empty(0)
    x, y = (np.array([part.mean() for part in np.array_split(one, parts)]) for one in (steps, values))
    return x, y


def _line(x: Values, y: Values, steps: int, most: float, style: str) -> str:
    points = " ".join(f"{_x(one, steps):.1f},{_y(other, most):.1f}" for one, other in zip(x, y, strict=True))
    return f'<polyline points="{points}" fill="none" {style}/>'


def _axes(steps: int, most: float) -> list[str]:
    """Lines and numbers at quarters of both sides."""
    drawn = []
    for quarter in range(5):
        y, x = _y(most * quarter / 4, most), _x(1 + (steps - 1) * quarter / 4, steps)
        drawn += [
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * quarter / 4:.3g}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="{"end" if quarter == 4 else "middle"}">'
            f"{round(1 + (steps - 1) * quarter / 4)}</text>",
        ]
    return [*drawn, f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>']


def _x(step: float, steps: int) -> float:
    return _LEFT + (step - 1) / max(1, steps - 1) * (_WIDTH - _LEFT - _RIGHT)


def _y(loss: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - loss / most * (_HEIGHT - _TOP - _BOTTOM)
