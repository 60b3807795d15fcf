"""A family's name stands only in its own folders: what serves all families knows none of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.registry import families
from tests.service import ROOT

PACKAGES = ("backends", "client", "darkroom", "exporters", "proxy", "supervisor", "training")
OWN = ("darkroom/pipelines/{}/", "exporters/{}/", "training/demo/{}/", "training/lora/{}/")
OLD_SERVICES = {
    "hidream": "proxy/surfaces/submit.py",
    "sdxl": "proxy/surfaces/txt2img.py",
    "upscale": "proxy/surfaces/upscale.py",
}
"""The REST contracts of services that were there before: each is of one family."""
WORDS = {"upscale": r"pipelines\.upscale|from darkroom\.pipelines import upscale|realesrgan|Real-ESRGAN"}
"""What to look for where a family has the name of its operation."""


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def strangers(name: str) -> list[str]:
    """Lines outside of the family's folders that name it."""
    own = tuple(folder.format(name) for folder in OWN)
    pattern = re.compile(WORDS.get(name, rf"(?<![a-z]){name}"), re.IGNORECASE)
    found = []
    for path in sources():
        short = path.relative_to(ROOT).as_posix()
        if not short.startswith(own) and short != OLD_SERVICES.get(name):
            lines = path.read_text().splitlines()
            found += [f"{short}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    return found


@pytest.mark.parametrize("name", list(families()))
def test_family_name_stands_only_in_its_own_folders(name: str) -> None:
    assert (ROOT / OWN[0].format(name)).is_dir()
    assert strangers(name) == []


def test_family_name_would_be_found(tmp_path: Path) -> None:
    """The test above can fail."""
    mine = re.compile(rf"(?<![a-z])(?:{'|'.join(families())})", re.IGNORECASE)
    assert any(mine.search(path.read_text()) for path in sources() if "pipelines" in path.parts)
