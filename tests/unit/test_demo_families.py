"""The families that have demo checkpoints: found by their folders, and named nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.files import ROOT
from training.card import write_cards
from training.family import families, family_of_stage

NAMES = {"sd15", "sdxl", "hidream", "qwen_edit"}


def test_demo_families_are_found_by_their_folders() -> None:
    assert set(families()) == NAMES
    assert next(iter(families().values())).usual


def test_demo_families_have_stages_of_their_own() -> None:
    stages = [stage for family in families().values() for stage in family.stages]
    assert len(set(stages)) == len(stages)
    for family in families().values():
        assert all(family_of_stage(stage) is family for stage in family.stages)
    with pytest.raises(ValueError, match="there is no stage 'nothing'; there are vae, unet, controlnet, hidream-vae"):
        family_of_stage("nothing")


def test_demo_families_have_a_card_for_each_of_their_checkpoints(tmp_path: Path) -> None:
    folders = [name for family in families().values() for name in (family.folder, *family.others)]
    for name in folders:
        (tmp_path / name).mkdir()
    write_cards(tmp_path)
    for name in folders:
        assert f"# {name}\n" in (tmp_path / name / "README.md").read_text()
    committed = [name for name in folders if (ROOT / "checkpoints" / name).is_dir()]
    assert families()["sd15"].folder in committed
    assert all((ROOT / "checkpoints" / name / "README.md").is_file() for name in committed)


def test_family_names_stand_in_the_folders_of_the_families_alone() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "training").rglob("*.py"))
        if path.relative_to(ROOT).parts[1:3] not in {(part, name) for part in ("demo", "lora") for name in NAMES}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(name in line.lower() for name in NAMES)
    ]
    assert found == []
