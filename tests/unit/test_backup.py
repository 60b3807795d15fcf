"""Backups of a service with SQLite, and their restoration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from darkroom.settings import Settings
from proxy.backup import contents
from proxy.backup.contents import without_secrets
from proxy.backup.manifest import BackupError
from proxy.backup.restoring import restore
from proxy.backup.writing import write_backup
from proxy.migrations import newest
from proxy.tasks import lock_file
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.backups import FILES, contents_of, filled, make_home, settings_of, tasks_of
from tests.task_store import add, draft


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Settings:
    settings = settings_of(tmp_path / "source")
    filled(settings)
    return settings


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar"])
def test_backup_brings_everything_to_another_folder(source: Settings, tmp_path: Path, home: Path, name: str) -> None:
    file, target = tmp_path / name, settings_of(tmp_path / "target")
    manifest = write_backup(source, file, models=False)
    assert (manifest.database, manifest.version, manifest.vanished) == ("sqlite", newest(), 0)
    assert file.stat().st_mode & 0o777 == 0o600
    os.utime(source.data_dir / "published" / "abc.png", (1, 1))  # after the backup
    (home / ".env").write_text("PORT=1\n")
    (home / "policies" / "mine.yaml").unlink()
    restore(target, file, force=False)
    assert contents_of(target.data_dir) == FILES
    assert tasks_of(target) == tasks_of(source) != []
    assert (target.data_dir / "audit_salt").stat().st_mode & 0o777 == 0o600
    assert (target.data_dir / "published" / "abc.png").stat().st_mtime > 1e9, "its URL is good as long as before"
    assert not target.model_repository.exists()
    assert (home / ".env").read_text() == "PORT=1\n"
    assert (home / ".env.restored").read_text() == "# HF_TOKEN was left out of the backup\nPORT=9000\n"
    assert (home / "policies" / "mine.yaml").read_text() == "version: 1\n"
    assert sorted(path.name for path in target.data_dir.parent.iterdir()) == ["data"]


def test_models_are_in_a_backup_that_asks_for_them(source: Settings, tmp_path: Path) -> None:
    file, target = tmp_path / "b.tar", settings_of(tmp_path / "target")
    write_backup(source, file, models=True)
    restore(target, file, force=False)
    assert contents_of(target.model_repository) == {"sd15/1/model.onnx": b"weights"}
    (target.model_repository / "mine").write_bytes(b"")
    with pytest.raises(BackupError, match="--force"):
        restore(settings_of(tmp_path / "other", model_repository=target.model_repository), file, force=False)
    assert not (tmp_path / "other" / "data").exists()
    restore(target, file, force=True)
    assert contents_of(target.model_repository) == {"sd15/1/model.onnx": b"weights"}


def test_folders_of_the_target_may_be_anywhere(source: Settings, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    write_backup(source, file, models=False)
    target = settings_of(
        tmp_path / "target",
        session_dir=tmp_path / "sessions",
        lora_dir=tmp_path / "target" / "data" / "deep" / "loras",
        database_url=f"sqlite:///{tmp_path / 'elsewhere' / 'my.db'}",
    )
    restore(target, file, force=False)
    assert contents_of(tmp_path / "sessions") == {"session_1/1/1.png": b"image"}
    assert contents_of(target.lora_dir) == {"style.safetensors": b"lora"}
    assert tasks_of(target) == tasks_of(source)
    database_file, crashed = tmp_path / "elsewhere" / "my.db", tmp_path / "crashed"
    store = Store(connect(target.database))
    add(store, draft("killed"))
    shutil.copytree(database_file.parent, crashed)  # as a killed service leaves it, with changes beside the file
    store.close()
    shutil.rmtree(database_file.parent)
    crashed.rename(database_file.parent)
    assert (database_file.parent / "my.db-wal").stat().st_size
    (tmp_path / "sessions" / "mine").write_bytes(b"")
    restore(target, file, force=True)
    assert tasks_of(target) == tasks_of(source)
    assert contents_of(tmp_path / "sessions") == {"session_1/1/1.png": b"image"}


def test_restore_refuses_what_is_there_and_force_replaces_all_of_it(source: Settings, tmp_path: Path) -> None:
    file, target = tmp_path / "b.tar", settings_of(tmp_path / "target")
    filled(target)
    mine = target.data_dir / "tasks" / "99" / "mine"
    mine.parent.mkdir()
    mine.write_bytes(b"")
    before = tasks_of(target)
    write_backup(source, file, models=False)
    with pytest.raises(BackupError, match=r"data is not empty; --force"):
        restore(target, file, force=False)
    assert (tasks_of(target), mine.exists()) == (before, True)
    restore(target, file, force=True)
    assert (tasks_of(target), mine.exists()) == (tasks_of(source), False)
    assert not list(target.data_dir.parent.glob(".*"))


def test_restore_refuses_while_a_service_has_the_database(source: Settings, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    write_backup(source, file, models=False)
    lock = lock_file.take(source.data_dir / "darkroom.db.lock")
    try:
        with pytest.raises(BackupError, match="service works"):
            restore(source, file, force=True)
    finally:
        os.close(lock)
    restore(source, file, force=True)


def test_backup_while_the_database_is_written_to_is_of_one_instant(source: Settings, tmp_path: Path) -> None:
    store = Store(connect(source.database))
    try:
        with store.transaction(locked=True) as connection:
            connection.execute(sa.text("UPDATE darkroom_tasks SET client = 'ben'"))
            write_backup(source, tmp_path / "b.tar", models=False)
    finally:
        store.close()
    target = settings_of(tmp_path / "target")
    restore(target, tmp_path / "b.tar", force=False)
    other = Store(connect(target.database))
    assert [task.client for task in other.page(client=None, state=None, limit=9)] == ["anna"]
    other.close()


def test_files_that_are_deleted_meanwhile_are_counted(
    source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = contents.Part.files

    def then_gone(part: contents.Part) -> Iterator[tuple[str, Path]]:
        for name, path in found(part):
            if path.name == "result_0.png":
                path.unlink()
            yield name, path

    monkeypatch.setattr(contents.Part, "files", then_gone)
    manifest = write_backup(source, tmp_path / "b.tar", models=False)
    assert manifest.vanished == 1
    assert "data/tasks/00/result_0.png" not in manifest.files


@pytest.mark.parametrize(
    ("name", "message"), [("b.zip", "must end in"), ("there.tar", "there already"), ("none/b.tar", "cannot be written")]
)
def test_backup_names_what_is_wrong_with_its_file(source: Settings, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.tar").write_bytes(b"mine")
    with pytest.raises(BackupError, match=message):
        write_backup(source, tmp_path / name, models=False)
    assert (tmp_path / "there.tar").read_bytes() == b"mine"
    assert not (tmp_path / "b.zip").exists()


def test_backup_of_a_service_that_was_never_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="not been started"):
        write_backup(settings_of(tmp_path / "new"), tmp_path / "b.tar", models=False)
    assert not (tmp_path / "b.tar").exists()


def test_secrets_of_env_files_are_left_out() -> None:
    text = (
        "# HF_TOKEN=example\nexport HF_TOKEN = hf_secret\nDATABASE_URL=postgresql://a:secret@b/c\nhf_token=x\nPORT=1\n"
    )
    found = without_secrets(text)
    assert "secret" not in found
    assert "hf_token=x" not in found
    assert found.splitlines()[0] == "# HF_TOKEN=example"
    assert found.splitlines()[-1] == "PORT=1"
