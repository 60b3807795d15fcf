"""Archives that are damaged or hostile, and restorations that fail: nothing changes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.settings import Settings
from proxy.backup.manifest import BackupError
from proxy.backup.restoring import restore
from proxy.backup.writing import write_backup
from tests.backups import FILES, contents_of, filled, make_home, settings_of, tasks_of


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Settings:
    settings = settings_of(tmp_path / "source")
    filled(settings)
    return settings


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
