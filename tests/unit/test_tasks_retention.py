"""Results and folders that are removed by age and size, and a disk that is full."""

from __future__ import annotations

import errno
import os
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from darkroom.errors import StorageFull
from proxy.tasks.database import connect
from proxy.tasks.files import Files
from proxy.tasks.models import Output
from proxy.tasks.retention import Retention
from proxy.tasks.schema import TASKS
from proxy.tasks.store import Store
from tests.task_store import add, draft


def test_retention_by_age_and_size(store: Store, tmp_path: Path) -> None:
    files = Files(tmp_path)
    picture = Output(data=memoryview(bytes(1 << 20)), media_type="image/png", details={})
    names = []
    for task in add(store, *(draft() for _ in range(4))):
        results = files.write_results(task.id, [picture])
        store.end(task.id, None, "completed", {"results": results, "bytes": 1 << 20})
        names.append(results[0]["name"])
    ids = [name.split("_")[0] for name in names]

    def age(id: str, hours: float, column: str) -> None:
        with store.transaction() as connection:
            connection.execute(sa.update(TASKS).where(TASKS.c.id == id).values({column: time.time() - hours * 3600}))

    def there() -> list[bool]:
        return [found is not None and found[1].exists() for found in map(files.result, names)]

    for hours, id in zip((5, 3, 2, 1), ids, strict=True):
        age(id, hours, "completed_at")
    assert Retention(store, files, hours=4, gigabytes=1).sweep() == []
    assert there() == [False, True, True, True]
    Retention(store, files, hours=4, gigabytes=2 / 1024).sweep()
    assert there() == [False, False, True, True]
    expired = store.get(ids[0])
    assert expired is not None
    assert expired.expired_at is not None
    age(ids[0], 5, "expired_at")
    retention = Retention(store, files, hours=4, gigabytes=1)
    assert retention.sweep() == retention.sweep() == [ids[0]]  # until they are forgotten
    retention.forget([ids[0]])
    assert store.get(ids[0]) is None
    assert retention.sweep() == []
    assert store.get(ids[1]) is not None


def test_retention_removes_folders_without_a_task_after_an_hour(store: Store, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write_inputs("00000000-new", {"image": b"x"})
    files.write_inputs("00000000-old", {"image": b"x"})
    old = tmp_path / "tasks" / "00" / "00000000-old"
    past = time.time() - 2 * 3600
    os.utime(old, (past, past))
    Retention(store, files, hours=1, gigabytes=1).sweep()
    assert not old.exists()
    assert old.with_name("00000000-new").exists()


def test_retention_keeps_folders_of_another_database(store: Store, tmp_path: Path) -> None:
    """DATABASE_URL was changed, or darkroom.db was lost."""
    files = Files(tmp_path)
    (task,) = add(store, draft())
    files.write_inputs(task.id, {"image": b"x"})
    (folder,) = (tmp_path / "tasks").glob("*/*")
    past = time.time() - 2 * 3600
    os.utime(folder, (past, past))
    Retention(store, files, hours=1, gigabytes=1).sweep()
    other = Store(connect(f"sqlite:///{tmp_path / 'other.db'}"))
    try:
        other.create()
        Retention(other, files, hours=1, gigabytes=1).sweep()
        assert folder.exists()
    finally:
        other.close()


def test_full_disk_removes_only_files_of_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, id = Files(tmp_path), str(uuid.uuid4())
    picture = Output(data=memoryview(b"a"), media_type="image/png", details={})
    kept = {result["name"] for result in files.write_results(id, [picture, picture, picture])}

    def full(path: Path, data: bytes) -> None:
        if "_1." in path.name:
            raise OSError(errno.ENOSPC, "full")
        path.write_bytes(data)

    monkeypatch.setattr("proxy.tasks.files.write_atomically", full)
    with pytest.raises(StorageFull):
        files.write_results(id, [picture, picture])
    left = {path.name for path in tmp_path.rglob("*.png")}
    assert left == kept - {f"{id}_0.png"}, "of another run's pictures those that it has not replaced"
