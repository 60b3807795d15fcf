"""The demo checkpoints that come along: as large as they may be, and measured as well as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service import ROOT
from training.card import ADHERENCE, write_cards
from training.demo.hidream.card import FOLDER as HIDREAM
from training.demo.sd15.card import CANNY, CONTROL, TEXT
from training.demo.sdxl.card import BASE, REFINER
from training.measure import weights_digest

CHECKPOINTS = ROOT / "checkpoints"
FOLDERS = (TEXT, CONTROL, HIDREAM, BASE)
ONE, TWO, F1 = 0.9, 0.75, 0.6


def _read(folder: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHECKPOINTS / folder / name).read_text())
    return found


def _size(*folders: str) -> int:
    return sum(path.stat().st_size for folder in folders for path in (CHECKPOINTS / folder).rglob("*"))


@pytest.mark.parametrize("folder", [TEXT, HIDREAM, BASE])
def test_adherence(folder: str) -> None:
    measured = _read(folder, ADHERENCE)
    assert measured["weights"] == weights_digest(CHECKPOINTS / folder), "it is of other weights: measure again"
    assert measured["prompts"] >= 200
    for group, least in (("one_object", ONE), ("two_objects", TWO)):
        assert measured["groups"][group]["holds"] >= least * measured["groups"][group]["prompts"]


def test_edges() -> None:
    measured = _read(CONTROL, CANNY)
    assert measured["weights"] == weights_digest(CHECKPOINTS / TEXT, CHECKPOINTS / CONTROL)
    assert measured["f1"] >= F1


def test_sizes() -> None:
    assert _size(TEXT, CONTROL) <= 25_000_000
    assert _size(HIDREAM) <= 20_000_000
    assert _size(BASE, REFINER) <= 30_000_000


def test_configs_name_no_path_of_a_machine() -> None:
    configs = [path for folder in FOLDERS for path in (CHECKPOINTS / folder).rglob("*.json")]
    assert len(configs) > len(FOLDERS)
    assert [path for path in configs if '"_name_or_path"' in path.read_text() or str(ROOT) in path.read_text()] == []


def test_cards_are_as_written(tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        for path in (CHECKPOINTS / folder).glob("*.json"):
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    write_cards(tmp_path)
    for folder in FOLDERS:
        assert (tmp_path / folder / "README.md").read_text() == (CHECKPOINTS / folder / "README.md").read_text()
