"""The results of a benchmark as a plot, by matplotlib (the extra `plot`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import InvalidRequest
from .report import Run, title

FORMATS = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Check that a plot can be written, before anything is measured.

    :raises InvalidRequest: matplotlib is missing, or the ending of the file names no format.
    """
    if path.suffix.lower() not in FORMATS:
        problem = f"plot must end in {', '.join(FORMATS)}; got {path.name!r}"
        raise InvalidRequest(problem, code="invalid_input", param="plot")
    if find_spec("matplotlib") is None:
        problem = "A plot needs matplotlib; run: pip install 'darkroom-client[plot]'"
        raise InvalidRequest(problem, code="missing_package", param="plot")


def draw(run: Run, path: Path) -> None:
    """Write a plot: images per second and latencies over the number of clients.

    :raises OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    levels = [level for level in run.levels if level.images]
    clients = [level.concurrency for level in levels]
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title(run), fontsize=10)
    left, right = figure.subplots(1, 2)
    left.plot(clients, [level.images_per_second for level in levels], marker="o", label="images/s")
    left.set_ylabel("images per second")
    for name in ("p50", "p95", "p99"):
        points = [(level.concurrency, getattr(level.latency, name)) for level in levels]
        known = [(x, y) for x, y in points if y is not None]
        if known:
            right.plot(*zip(*known, strict=True), marker="o", label=name)
    previews = [(level.concurrency, level.first_preview.p50) for level in levels if level.first_preview.p50 is not None]
    if previews:
        right.plot(*zip(*previews, strict=True), marker="o", linestyle="--", label="first preview, p50")
    right.set_ylabel("seconds")
    for axes in (left, right):
        axes.set_xlabel("clients")
        axes.set_xticks(clients)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    if levels:
        right.legend()
    figure.savefig(path)
