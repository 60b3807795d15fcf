"""Fixtures that several files of this folder share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import running_postgres


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")  # must not bring control codes into a file
    return tmp_path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.sd15_checkpoints import write_checkpoint, write_controlnet  # torch: most tests here do without

    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "tiny")
    write_controlnet(folder / "tiny-canny")
    return folder


@pytest.fixture
def tiny(originals: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(originals / "tiny", tmp_path / "tiny"))


@pytest.fixture
def canny(originals: Path, tmp_path: Path) -> Path:
    """A ControlNet to break."""
    return Path(shutil.copytree(originals / "tiny-canny", tmp_path / "tiny-canny"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with running_postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """A DATABASE_URL. All tests share the database of PostgreSQL, as several installations never would."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")
