"""Backups of a service with PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from proxy.backup import database, restoring
from proxy.backup.manifest import BackupError
from proxy.backup.restoring import restore
from proxy.backup.writing import write_backup
from proxy.migrations import VERSION_TABLE
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.backups import FILES, contents_of, filled, make_home, settings_of, tasks_of
from tests.postgres import Postgres, running_postgres


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def test_postgresql_is_backed_up_and_replaced(postgres: Postgres, tmp_path: Path) -> None:
    source = settings_of(tmp_path / "source", database_url=postgres.url)
    id, file = filled(source), tmp_path / "b.tar"
    manifest = write_backup(source, file, models=False)
    assert manifest.database == "postgresql"
    target = settings_of(tmp_path / "target", database_url=postgres.url)
    with pytest.raises(BackupError, match="has tasks or keys; --force"):
        restore(target, file, force=False)
    store = Store(connect(postgres.url))
    with store.transaction() as connection:
        connection.execute(sa.text("DELETE FROM darkroom_tasks"))
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0000'"))
        with pytest.raises(BackupError, match="1 other connections"):
            restore(target, file, force=True)
    store.close()
    restore(target, file, force=True)
    assert tasks_of(target) == [id]
    assert contents_of(target.data_dir) == FILES
    with pytest.raises(BackupError, match="sqlite one"):
        restore(settings_of(tmp_path / "other"), file, force=False)


def test_failed_pg_restore_puts_the_files_back(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path / "source", database_url=postgres.url)
    filled(settings)
    file = tmp_path / "b.tar"
    write_backup(settings, file, models=False)
    (settings.data_dir / "mine").write_bytes(b"")
    monkeypatch.setattr(restoring.database, "restore_postgres", _fail)
    with pytest.raises(BackupError, match="pg_restore failed"):
        restore(settings, file, force=True)
    assert contents_of(settings.data_dir) == {**FILES, "mine": b""}
    assert sorted(path.name for path in settings.data_dir.parent.iterdir()) == ["data", "models"]


def _fail(*given: object) -> None:
    raise BackupError("pg_restore failed: no reason")


def test_missing_programs_of_postgresql_are_named(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = settings_of(tmp_path / "source", database_url=postgres.url)
    with pytest.raises(BackupError, match="apt install postgresql-client"):
        write_backup(settings, tmp_path / "b.tar", models=False)
