"""Backups of SQLite and PostgreSQL, and archives that are damaged or hostile."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from darkroom.settings import Settings
from proxy.backup import contents, database, restoring
from proxy.backup.contents import without_secrets
from proxy.backup.manifest import BackupError
from proxy.backup.restoring import restore
from proxy.backup.writing import write_backup
from proxy.migrations import VERSION_TABLE, newest
from proxy.tasks import lock_file
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.postgres import Postgres, running_postgres
from tests.task_store import add, draft

FILES = {
    "tasks/.database": b"id",
    "tasks/00/inputs/file": b"input" * 1000,
    "tasks/00/result_0.png": b"result",
    "tasks/00/workspace/state": b"state",
    "session_data/session_1/1/1.png": b"image",
    "loras/style.safetensors": b"lora",
    "published/abc.png": b"published",
    "audit_salt": b"salt",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with settings and a policy."""
    home = tmp_path / "home"
    (home / "policies").mkdir(parents=True)
    (home / ".env").write_text("HF_TOKEN=hf_secret\nPORT=9000\n")
    (home / "policies" / "mine.yaml").write_text("version: 1\n")
    for module in (contents, restoring):
        monkeypatch.setattr(module, "ROOT", home)
    monkeypatch.setattr(contents, "ENV_FILE", home / ".env")
    return home


def settings_of(folder: Path, **more: Any) -> Settings:
    named = {"data_dir": folder / "data", "model_repository": folder / "models"} | more
    return Settings(_env_file=None, **named)


def filled(settings: Settings) -> str:
    """Make a database with a task, and files; returns the task's id."""
    store = Store(connect(settings.database))
    store.create()
    (task,) = add(store, draft("anna"))
    store.close()
    for name, data in FILES.items():
        path = settings.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (settings.data_dir / "audit_salt").chmod(0o600)
    (settings.model_repository / "sd15" / "1").mkdir(parents=True, exist_ok=True)
    (settings.model_repository / "sd15" / "1" / "model.onnx").write_bytes(b"weights")
    return task.id


def tasks_of(settings: Settings) -> list[str]:
    store = Store(connect(settings.database))
    try:
        return [task.id for task in store.page(client=None, state=None, limit=9)]
    finally:
        store.close()


def contents_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but those of the database."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("darkroom.db"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


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


def repacked(file: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """A copy of an archive with other members."""
    with tarfile.open(file) as tar:
        found = [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]
    change(found)
    target = file.with_name("changed.tar")
    with tarfile.open(target, "w") as tar:
        for member, data in found:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return target


def named(
    name: str, type: bytes = tarfile.REGTYPE, link: str = ""
) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, link
    return lambda found: found.insert(0, (member, b"x" if type == tarfile.REGTYPE else b""))


def with_manifest(**values: object) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        member, data = found.pop()
        found.append((member, json.dumps({**json.loads(data), **values}).encode()))

    return change


def other_content(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    at = next(i for i, (member, _) in enumerate(found) if member.name.endswith("result_0.png"))
    found[at] = (found[at][0], b"resulT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (named("../outside"), "name '../outside'"),
        (named("data/../../outside"), "name"),
        (named("/etc/outside"), "name '/etc/outside'"),
        (named("data/./x"), "name"),
        (named("elsewhere/x"), "which backups do not have"),
        (named("home/.bashrc"), "which backups do not have"),
        (named("data"), "which backups do not have"),
        (named("data/link", tarfile.SYMTYPE, "/etc"), "no plain file"),
        (named("data/link", tarfile.LNKTYPE, "data/audit_salt"), "no plain file"),
        (named("data/pipe", tarfile.FIFOTYPE), "no plain file"),
        (named("data/device", tarfile.CHRTYPE), "no plain file"),
        (named("data/more"), "is not in its manifest"),
        (named("data/audit_salt"), "twice"),
        (lambda found: found.reverse(), "behind its manifest"),
        (lambda found: found.pop(3), "is missing"),
        (lambda found: found.pop(), "no manifest"),
        (other_content, "damaged"),
        (with_manifest(format=2), "format"),
        (with_manifest(version="9000"), "newer release"),
        (with_manifest(database="postgresql"), "of a postgresql database"),
    ],
)  # fmt: skip
def test_hostile_and_damaged_archives_change_nothing(
    source: Settings, tmp_path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], message: str
) -> None:
    file = tmp_path / "b.tar"
    write_backup(source, file, models=False)
    _refused_and_unchanged(source, repacked(file, change), message)


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tar"])
def test_truncated_archives_change_nothing(source: Settings, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    write_backup(source, file, models=False)
    data = file.read_bytes()
    for part in (0, 1, 5, 300, len(data) // 2, len(data) * 9 // 10):
        file.write_bytes(data[:part])
        _refused_and_unchanged(source, file, r"damaged|truncated")
    middle = len(data) // 2
    file.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    _refused_and_unchanged(source, file, r"damaged|truncated")
    file.write_bytes(b"no archive at all" * 100)
    _refused_and_unchanged(source, file, "damaged")


def _refused_and_unchanged(settings: Settings, file: Path, message: str) -> None:
    before, tasks = contents_of(settings.data_dir.parent), tasks_of(settings)
    around = sorted(path.name for path in settings.data_dir.parent.parent.iterdir())
    with pytest.raises(BackupError, match=message):
        restore(settings, file, force=True)
    assert contents_of(settings.data_dir.parent) == before
    assert tasks_of(settings) == tasks
    assert sorted(path.name for path in settings.data_dir.parent.parent.iterdir()) == around


def test_failed_rename_puts_everything_back(source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "b.tar"
    write_backup(source, file, models=True)
    rename = Path.rename

    def fails_for_models(self: Path, target: Path) -> Path:
        if self.name == ".models.restoring":
            raise OSError(16, "Device or resource busy", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_models)
    (source.data_dir / "tasks" / "mine").write_bytes(b"")
    _refused_and_unchanged(source, file, "busy")


def test_restoration_that_was_killed_between_two_renames_is_undone(source: Settings, tmp_path: Path) -> None:
    file, tasks = tmp_path / "b.tar", tasks_of(source)
    write_backup(source, file, models=False)
    source.data_dir.rename(source.data_dir.with_name(".data.replaced"))
    (source.data_dir.with_name(".data.restoring") / "tasks").mkdir(parents=True)
    with pytest.raises(BackupError, match="not empty"):
        restore(source, file, force=False)
    assert tasks_of(source) == tasks
    assert contents_of(source.data_dir) == FILES


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
