"""The picture of the dashboard: its size, its lines, and legends as Grafana writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.dashboard import legend
from benchmarks.dashboard_drawing import Line, Panel, draw


def panel(*lines: Line, y: int = 1) -> Panel:
    return Panel(title="Steps", unit="reqps", row=False, lines=list(lines), x=0, y=y, w=8, h=7)


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))


def test_legend_has_the_labels_of_a_series() -> None:
    assert legend("{{model}}: {{reason}} {{instance}}", {"model": "a", "reason": "b", "instance": "c:1"}) == "a: b"
    assert legend("running, {{lane}} {{instance}}", {"lane": "images", "instance": "c:1"}) == "running, images"
    assert legend("{{decision}} {{rule}}", {"decision": "passed"}) == "passed"
    assert legend("{{gpu_uuid}} {{instance}}", {"instance": "c:1"}) == "c:1"


def test_picture_shows_lines_and_says_where_there_are_none(tmp_path: Path) -> None:
    title = Panel(title="Does it work?", unit="", row=True, lines=[], x=0, y=0, w=24, h=1)
    rising = Line(label="rising", points=[(0.0, 0.0), (60.0, 1.0)])
    many = [Line(label=f"line {number}", points=[(0.0, number), (60.0, number)]) for number in range(9)]
    draw([title, panel(rising), panel(*many, y=8)], tmp_path / "drawn.png")
    draw([title, panel(), panel(y=8)], tmp_path / "empty.png")
    with Image.open(tmp_path / "drawn.png") as image:
        assert image.size == (1200, 510)
    green = (115, 191, 105)
    assert green in colours(tmp_path / "drawn.png")
    assert green not in colours(tmp_path / "empty.png")
