"""Panels of a dashboard as a picture, by matplotlib, laid out as Grafana does."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 24
_UNIT_INCHES = 0.5, 0.34
"""Width and height of one unit of the grid."""
_UNITS = {"reqps": "a second", "s": "seconds", "percentunit": "%", "short": ""}
_MAX_LINES = 6
"""Lines of a legend; the rest is counted. The lines with the largest values come first."""
_COLOURS = 96
_BACKGROUND, _PANEL, _TEXT, _QUIET = "#111217", "#181b1f", "#ccccdc", "#8e8e99"
_LINES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#fade2a", "#ffa6b0", "#37872d")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a graph; times in seconds."""

    label: str
    points: list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A graph, or the title of a row; its place is in units of Grafana's grid."""

    title: str
    unit: str
    row: bool
    lines: list[Line]
    x: int
    y: int
    w: int
    h: int


def draw(panels: list[Panel], path: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    rows = max(panel.y + panel.h for panel in panels)
    width, height = _UNIT_INCHES
    figure = Figure(figsize=(_COLUMNS * width, rows * height), facecolor=_BACKGROUND)
    for panel in panels:
        if panel.row:
            figure.text(
                0.008, 1 - (panel.y + 0.6) / rows, panel.title, color=_TEXT, size=11, va="center", weight="bold"
            )
        else:
            _draw_panel(figure, panel, rows)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    with Image.open(drawn) as image:
        # A palette makes the file a third as large.
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def _draw_panel(figure: Figure, panel: Panel, rows: int) -> None:
    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        """From units of the grid, with y downwards, to shares of the figure."""
        return x / _COLUMNS, 1 - (y + h) / rows, w / _COLUMNS, h / rows

    legend = _legend_height(panel)
    frame = figure.add_axes(place(panel.x + 0.1, panel.y + 0.1, panel.w - 0.2, panel.h - 0.2), facecolor=_PANEL)
    frame.set(xticks=[], yticks=[])
    frame.spines[:].set_visible(False)
    axes = figure.add_axes(place(panel.x + 1.0, panel.y + 1.1, panel.w - 1.4, panel.h - 2.0 - legend), facecolor=_PANEL)
    unit = _UNITS.get(panel.unit, panel.unit)
    axes.set_title(panel.title + (f" ({unit})" if unit else ""), color=_TEXT, size=8, loc="left", x=-0.09)
    _style(axes)
    if not panel.lines:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "No data", color=_QUIET, size=9, ha="center", va="center", transform=axes.transAxes)
        return
    _plot(axes, panel)


def _shown(panel: Panel) -> list[Line]:
    return sorted(panel.lines, key=lambda line: -max(value for _, value in line.points))


def _legend_height(panel: Panel) -> float:
    """In units of the grid."""
    return 0.5 * ((min(len(panel.lines), _MAX_LINES) + 1) // 2)


def _plot(axes: Axes, panel: Panel) -> None:
    lines = _shown(panel)
    named = len(lines) if len(lines) <= _MAX_LINES else _MAX_LINES - 1
    factor = 100 if panel.unit == "percentunit" else 1
    for number, line in enumerate(lines):
        minutes, values = [at / 60 for at, _ in line.points], [value * factor for _, value in line.points]
        label = line.label if number < named else None
        axes.plot(minutes, values, label=label, linewidth=1.1, color=_LINES[number % len(_LINES)])
    if named < len(lines):
        axes.plot([], [], label=f"and {len(lines) - named} more", color=_PANEL)
    largest = max(value for line in lines for _, value in line.points) * factor
    axes.set_ylim(0, 1.05 * largest if largest > 0 else 1)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.1, -0.16),
        ncols=2,
        fontsize=6,
        frameon=False,
        labelcolor=_TEXT,
        handlelength=1.2,
    )


def _style(axes: Axes) -> None:
    axes.tick_params(colors=_QUIET, labelsize=6, length=0)
    axes.grid(color=_QUIET, alpha=0.15, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.margins(x=0)
    axes.xaxis.set_major_formatter("{x:g} min")
