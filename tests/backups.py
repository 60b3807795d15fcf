"""Data of a service that are backed up: files, a database, a home folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom.settings import Settings
from proxy.backup import contents, restoring
from proxy.tasks.database import connect
from proxy.tasks.store import Store
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


def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home folder with settings and a policy, and use it."""
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
