"""The folders of the exporters."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters import files
from exporters.files import ROOT, cache_folder


@pytest.mark.parametrize(
    ("environment", "dotenv", "folder"),
    [
        (None, "", ROOT / ".darkroom" / "cache"),
        ("", "", ROOT / ".darkroom" / "cache"),
        ("/var/lib/darkroom", "STATE_DIR=/elsewhere\n", Path("/var/lib/darkroom/cache")),
        (None, "STATE_DIR=/elsewhere\n", Path("/elsewhere/cache")),
        ("state", "", ROOT / "state" / "cache"),
    ],
)
def test_downloads_are_kept_in_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: str | None, dotenv: str, folder: Path
) -> None:
    (tmp_path / ".env").write_text(dotenv)
    monkeypatch.setattr(files, "ENV_FILE", tmp_path / ".env")
    monkeypatch.delenv("STATE_DIR", raising=False)
    if environment is not None:
        monkeypatch.setenv("STATE_DIR", environment)
    assert cache_folder() == folder
