"""The parts of the operation `train` that need no trainer: checkpoint, name in the session, status, tasks by key."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import Conflict, NotFound
from darkroom.settings import ROOT, Settings
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.operations.checkpoints import served_model, training_checkpoint
from proxy.operations.train import LORA, NAME, keep_lora, last_loss
from proxy.services import Services
from proxy.sessions.store import SessionStore
from proxy.sessions.training import training_of
from proxy.tasks import keys
from proxy.tasks.store import Store
from tests.monitors import Ready
from tests.task_store import WORK, add, draft


def settings(repository: Path, **more: Any) -> Settings:
    return Settings(_env_file=None, model_repository=repository, **more)


def export(repository: Path, model: str, checkpoint: str) -> None:
    folder = repository / model / "1"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text(json.dumps({"sources": {"checkpoint": {"name": checkpoint, "files": {}}}}))


def test_training_checkpoint_is_that_of_the_first_family_that_is_exported(tmp_path: Path) -> None:
    first, second = tmp_path / "large", tmp_path / "small"
    first.mkdir()
    second.mkdir()
    export(tmp_path, "sd15", str(second))
    assert training_checkpoint(settings(tmp_path)) == str(second)
    export(tmp_path, "sdxl", str(first))
    assert training_checkpoint(settings(tmp_path)) == str(first)
    first.rmdir()
    assert training_checkpoint(settings(tmp_path)) == str(second)


def test_training_checkpoint_may_be_a_hub_id(tmp_path: Path) -> None:
    export(tmp_path, "sdxl", "owner/name")
    assert training_checkpoint(settings(tmp_path)) == "owner/name"
    assert training_checkpoint(settings(tmp_path, train_checkpoint="other/name")) == "other/name"
    demo = "checkpoints/demo-sd15"
    assert training_checkpoint(settings(tmp_path, train_checkpoint=demo)) == str(ROOT / demo)


def test_samples_are_made_by_the_model_of_the_same_checkpoint(tmp_path: Path) -> None:
    """Where Triton serves it."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    export(tmp_path, "sd15", str(checkpoint))

    async def scenario() -> None:
        gateway = Gateway("127.0.0.1:1")
        monitor = Ready(gateway, {}, metrics_url="", interval=1, timeout=1)
        gate = Gate(capacity=1, queue_size=1)
        services = Services(settings=settings(tmp_path), gateway=gateway, monitor=monitor, gate=gate)
        assert served_model(services, str(checkpoint)) is None, "it is not served"
        monitor.models = {"sd15": True, "sdxl": True}
        found = served_model(services, str(checkpoint))
        assert found is not None
        assert found.name == "sd15"
        assert served_model(services, str(tmp_path / "another")) is None

    asyncio.run(scenario())


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"sources": {"checkpoint": {"name": 7}}}'])
def test_training_checkpoint_that_is_not_there(tmp_path: Path, manifest: str | None) -> None:
    if manifest is not None:
        export(tmp_path, "sdxl", "")
        (tmp_path / "sdxl" / "1" / "export.json").write_text(manifest)
    with pytest.raises(Conflict, match=r"Stable Diffusion XL.*TRAIN_CHECKPOINT"):
        training_checkpoint(settings(tmp_path))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / LORA).write_bytes(b"a LoRA")
    return folder


@pytest.fixture
def sessions(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def test_trained_lora_is_kept_once(workspace: Path, sessions: SessionStore) -> None:
    """Also when the run is repeated after a crash, whatever has been added meanwhile."""
    session = str(sessions.create())
    sessions.add_lora(session, b"another")
    assert keep_lora(sessions, session, workspace) == "lora_2.safetensors"
    sessions.add_lora(session, b"a later one")
    assert keep_lora(sessions, session, workspace) == "lora_2.safetensors"
    found = sorted(path.name for path in sessions.folder(session).iterdir())
    assert found == ["lora_1.safetensors", "lora_2.safetensors", "lora_3.safetensors"]


def test_trained_lora_whose_name_was_taken_gets_the_next_one(workspace: Path, sessions: SessionStore) -> None:
    session = str(sessions.create())
    (workspace / NAME).write_text("lora_1.safetensors")  # noted, and then the service died
    sessions.add_lora(session, b"an upload")
    assert keep_lora(sessions, session, workspace) == "lora_2.safetensors"
    assert sessions.read_lora(session, 1)[1] == b"an upload"
    assert sessions.read_lora(session, 2)[1] == b"a LoRA"


def test_trained_lora_of_a_deleted_session_is_dropped(workspace: Path, sessions: SessionStore) -> None:
    session = str(sessions.create())
    sessions.delete(session)
    with pytest.raises(NotFound):
        keep_lora(sessions, session, workspace)


def test_last_loss_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "loss.csv"
    found = [last_loss(table)]
    for text in ("", "step,loss\n", "step,loss\n1,0.5\n", "step,loss\n1,0.5\n2,0.25\n"):
        table.write_text(text)
        found.append(last_loss(table))
    assert found == [None, None, None, 0.5, 0.25]


WITH_KEY = dataclasses.replace(WORK, exclusive="session:1")


def test_tasks_by_key(store: Store) -> None:
    first, _, third = add(store, draft(work=WITH_KEY), draft(), draft(work=WITH_KEY))
    found = keys.newest(store, ["session:1", "session:2"])
    assert {key: task.id for key, task in found.items()} == {"session:1": third.id}
    assert keys.newest(store, []) == {}
    assert set(keys.unfinished(store, "session:1")) == {first.id, third.id}
    store.begin(first.id, "run", "worker")
    store.end(first.id, "run", "cancelled")
    store.end(third.id, None, "cancelled")
    assert keys.unfinished(store, "session:1") == [first.id], "its run has not stopped"
    store.stopped(first.id, "run")
    assert keys.unfinished(store, "session:1") == []
    assert set(keys.kept(store, "session:1")) == {first.id, third.id}


def test_status_of_a_training(store: Store) -> None:
    assert training_of(None) == {"status": "none", "progress": 0}
    (task,) = add(store, draft(work=WITH_KEY))
    said = training_of(task)
    assert (said["status"], said["progress"], said["task_id"]) == ("in-progress", 0, task.id)
    running = dataclasses.replace(task, state="processing", step=5, steps=12)
    assert training_of(running) == {**said, "progress": 41, "step": 5, "total_steps": 12}
    failed = dataclasses.replace(running, state="failed", error={"code": "c", "message": "It went wrong."})
    assert training_of(failed) == {"status": "error", "progress": 41, "task_id": task.id, "message": "It went wrong."}
    results = [{"details": {"lora": "lora_4.safetensors"}}, {"details": {}}]
    paused = training_of(dataclasses.replace(running, state="paused"))
    assert paused == {**said, "progress": 41, "step": 5, "total_steps": 12, "paused": True}
    done = dataclasses.replace(running, state="completed", results=results)
    assert training_of(done) == {
        "status": "completed",
        "progress": 100,
        "task_id": task.id,
        "lora": "lora_4.safetensors",
    }
