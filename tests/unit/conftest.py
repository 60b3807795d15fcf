"""Fixtures that several files of this folder share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.postgres import running_postgres
from tests.unit.loopback import Loopback, loopback, studio

if TYPE_CHECKING:
    from proxy.tasks.store import Store
    from tests.hub import Hub


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")  # must not bring control codes into a file
    return tmp_path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint and a ControlNet of it."""
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
    """The URL of a PostgreSQL server."""
    with running_postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """A DATABASE_URL. All tests share the database of PostgreSQL, as several installations never would."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of tasks in a new SQLite file."""
    from proxy.tasks.database import connect  # SQLAlchemy: most tests here do without
    from proxy.tasks.store import Store

    made = Store(connect(f"sqlite:///{tmp_path / 'new' / 'darkroom.db'}"))
    made.create()
    made.create()  # a second start
    yield made
    made.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one small repository, which HF_ENDPOINT names; there is no token."""
    import huggingface_hub  # which takes a second

    from exporters.checkpoints import hub_transfer
    from tests.hub import FILES, REPOSITORY, UNET, Hub, serving

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(hub_transfer, "WAIT_SECONDS", 0.01)
    with serving(Hub(REPOSITORY, dict(FILES), large={UNET})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A loopback service that is healthy and generates images."""
    with loopback(studio) as running:
        yield running
