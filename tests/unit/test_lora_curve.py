"""The picture of the loss of a training."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from training.lora.curve import loss_curve

SVG = "{http://www.w3.org/2000/svg}"


def lines_of(data: bytes) -> list[list[tuple[float, float]]]:
    """The points of each line."""
    found = ElementTree.fromstring(data).findall(f"{SVG}polyline")
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]
        for line in found
    ]


def test_loss_curve_has_a_point_for_each_step() -> None:
    raw, mean = lines_of(loss_curve([0.4, 0.2, 0.3, 0.1]))
    assert [x for x, _ in raw] == [64.0, 252.0, 440.0, 628.0]
    assert [y for _, y in raw] == [12.0, 148.0, 80.0, 216.0], "of 284, the loss 0, and 12, the largest one"
    assert mean == raw, "of so few steps"


def test_loss_curve_of_many_steps_is_small_and_smooth() -> None:
    random = np.random.default_rng(0)
    data = loss_curve((1 / np.arange(1, 20_001) ** 0.3 + random.random(20_000) / 10).tolist())
    raw, mean = lines_of(data)
    assert len(raw) == len(mean) == 400
    assert len(data) < 20_000
    assert np.abs(np.diff([y for _, y in mean][40:])).max() < np.abs(np.diff([y for _, y in raw][40:])).max() / 2


@pytest.mark.parametrize("losses", [[], [0.0], [0.5], [0.0, 0.0]])
def test_loss_curve_of_few_steps(losses: list[float]) -> None:
    data = loss_curve(losses)
    assert [len(line) for line in lines_of(data)] == [len(losses)] * 2
    assert b"nan" not in data
