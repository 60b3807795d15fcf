"""Results of any type, and the workspace from which a task resumes; with the real database, queue, runner and files."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from darkroom.errors import InvalidInput, NetworkError
from proxy import errors, operations
from proxy.surfaces.tasks import router
from proxy.tasks.database import connect
from proxy.tasks.files import Files, extension
from proxy.tasks.models import Draft, Output, TaskContext
from proxy.tasks.retention import Retention
from proxy.tasks.store import Store
from tests.file_maker import STEPS, FileMaker, work
from tests.runner_bench import Bench, bench
from tests.service import ROOT
from tests.tasks_part import Part, part

MADE = b"abcdef"
OCTETS = "application/octet-stream"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[FileMaker], Awaitable[None]]], None]:
    def go(scenario: Callable[[FileMaker], Awaitable[None]]) -> None:
        async def whole() -> None:
            maker = FileMaker()
            monkeypatch.setitem(operations.OPERATIONS, maker.name, maker)
            await asyncio.wait_for(scenario(maker), 120)

        asyncio.run(whole())

    return go


Run = Callable[[Callable[[FileMaker], Awaitable[None]]], None]


@asynccontextmanager
async def client(made: Part) -> AsyncIterator[httpx.AsyncClient]:
    """The routes of tasks over the tasks of a test."""
    app = FastAPI()
    app.include_router(router)
    errors.install(app)
    app.state.tasks = made.tasks
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        yield http


def workspaces(folder: Path) -> list[Path]:
    return list(folder.glob("tasks/*/*/workspace"))


@pytest.mark.parametrize(
    ("media_type", "filename", "ending", "shown"),
    [
        (OCTETS, "lora.safetensors", "safetensors", False),
        ("application/zip", None, "zip", False),
        ("application/json", None, "json", False),
        ("text/plain", None, "txt", False),
        ("image/svg+xml", None, "svg", False),
        ("text/html", "page.html", "html", False),
        ("image/png", None, "png", True),
        ("image/png", "preview.png", "png", True),
        (OCTETS, None, "bin", False),
    ],
)
def test_result_of_any_type_is_served(
    tmp_path: Path, run: Run, media_type: str, filename: str | None, ending: str, shown: bool
) -> None:
    async def scenario(maker: FileMaker) -> None:
        async with part(tmp_path, None, maker) as made, client(made) as http:
            sent = await made.submit_work(work(media_type=media_type, filename=filename))
            task = await made.ended(sent)
            stored = f"{task.id}_0.{ending}"
            entry = {"name": stored, "media_type": media_type, "bytes": len(MADE), "details": {"step": STEPS}}
            assert task.results == [entry | ({"filename": filename} if filename else {})]
            (url,) = (await http.get(f"/tasks/{task.id}")).json()["result_urls"]
            below = f"/tasks/{task.id}/results/{filename or stored}"
            assert httpx.URL(url).path == (f"/images/{stored}" if shown and not filename else below)
            for path in (url, below, f"/tasks/{task.id}/results/{stored}", f"/download/{task.id}", f"/images/{stored}"):
                answer = await http.get(path)
                assert (answer.status_code, answer.content) == (200, MADE), path
                assert answer.headers["content-type"].partition(";")[0] == media_type
                assert answer.headers["content-length"] == str(len(MADE))
                assert answer.headers["x-content-type-options"] == "nosniff"
                disposition = "inline" if shown else "attachment"
                assert answer.headers["content-disposition"] == f'{disposition}; filename="{filename or stored}"'
                known = await http.get(path, headers={"if-none-match": answer.headers["etag"]})
                assert (known.status_code, known.content) == (304, b"")
                piece = await http.get(path, headers={"range": "bytes=1-3"})
                assert (piece.status_code, piece.content) == (206, MADE[1:4])
            missing = await http.get(f"/tasks/{task.id}/results/other.zip")
            assert (missing.status_code, missing.json()["error"]["param"]) == (404, "name")

    run(scenario)


def test_result_of_a_task_that_runs_is_a_conflict(tmp_path: Path, run: Run) -> None:
    async def scenario(maker: FileMaker) -> None:
        maker.pause_at = 1
        async with part(tmp_path, None, maker) as made, client(made) as http:
            task = await made.submit_work(work())
            await maker.paused.acquire()
            assert (await http.get(f"/tasks/{task.id}/results/x.zip")).status_code == 409
            maker.go_on.set()
            await made.ended(task)

    run(scenario)


def test_workspace_resumes_after_a_failure_of_the_server(tmp_path: Path, run: Run) -> None:
    async def scenario(maker: FileMaker) -> None:
        maker.pause_at, maker.error = 2, NetworkError("died")
        async with part(tmp_path, None, maker) as made:
            maker.go_on.clear()
            task = await made.submit_work(work())
            await maker.paused.acquire()
            maker.go_on.set()
            task = await made.ended(task)
            assert (task.state, task.attempts, maker.resumed) == ("completed", 2, [0, 2])
        assert workspaces(tmp_path) == []

    run(scenario)


def test_workspace_resumes_after_a_restart(tmp_path: Path, database: str | None, run: Run) -> None:
    async def scenario(maker: FileMaker) -> None:
        maker.pause_at = 4
        async with part(tmp_path, database, maker) as made:
            task = await made.submit_work(work())
            await maker.paused.acquire()
        assert len(workspaces(tmp_path)) == 1
        maker.go_on.set()
        async with part(tmp_path, database, maker) as made:
            task = await made.ended(task)
            assert (task.state, task.attempts, maker.resumed) == ("completed", 1, [0, 4])
        assert workspaces(tmp_path) == []
        found = Files(tmp_path).result(task.results[0]["name"])
        assert found is not None
        assert found[1].read_bytes() == MADE

    run(scenario)


def test_workspace_resumes_after_kill_9(tmp_path: Path, run: Run) -> None:
    command = [sys.executable, "-m", "tests.file_maker", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        id = process.stdout.readline().strip()  # it waits after its third step
        process.kill()
    assert id

    async def scenario(maker: FileMaker) -> None:
        async with part(tmp_path, None, maker) as made:
            task = await made.ended(await made.tasks.get(id))
            assert (task.state, task.attempts, maker.resumed) == ("completed", 2, [3])

    run(scenario)


def test_workspace_is_removed_when_its_task_is_cancelled(tmp_path: Path, run: Run) -> None:
    async def scenario(maker: FileMaker) -> None:
        maker.pause_at = 1
        async with part(tmp_path, None, maker) as made:
            tasks = [await made.submit_work(work()), await made.submit_work(work())]
            await maker.paused.acquire()
        async with part(tmp_path, None, maker, task_queue_size=9) as made:
            tasks.append(await made.submit_work(work()))
            for task in tasks:
                if (await made.tasks.get(task.id)).state == "queued":
                    Files(tmp_path).workspace(task.id)  # as of a run before the restart
            for task in tasks:
                await made.tasks.cancel(task.id)
            while workspaces(tmp_path):  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0.01)

    run(scenario)


def test_workspace_stays_when_another_proxy_takes_the_task_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[Bench] = []

    async def body(context: TaskContext) -> list[Output]:
        here[0].store.begin(context.workspace.parent.name, "another proxy's")
        (context.workspace / "progress").write_text("a")
        return []

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            here.append(made)
            id = made.add()
            await made.runner.execute(id)
            assert made.task(id).state == "processing"
            assert [one.name for one in workspaces(tmp_path)[0].iterdir()] == ["progress"]

    asyncio.run(scenario())


def test_workspace_without_room_fails_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            id = made.add()
            await made.runner.execute(id)
            error = made.task(id).error
            assert error is not None
            assert error["code"] == "storage_full"

    asyncio.run(scenario())


def test_workspace_counts_for_retention(tmp_path: Path) -> None:
    store, files = Store(connect(f"sqlite:///{tmp_path / 'darkroom.db'}")), Files(tmp_path)
    store.create()
    try:
        ids = [str(uuid.uuid4()) for _ in range(2)]
        for id in ids:
            draft = Draft(id=id, operation="o", client="c", priority="normal", key=None, digest="", work=work())
            store.add([draft], slots=1, queue_size=9, fallback=1.0)
        results = files.write_results(ids[0], [Output(data=bytes(1 << 20), media_type="application/zip")])
        store.end(ids[0], None, "completed", {"results": results, "bytes": 1 << 20})
        store.begin(ids[1], "run")
        retention = Retention(store, files, hours=1, gigabytes=1.5 / 1024)
        retention.sweep()
        assert [path.name for path in tmp_path.rglob("*.zip")] == [results[0]["name"]]
        (files.workspace(ids[1]) / "checkpoint").write_bytes(bytes(1 << 20))
        retention.sweep()
        assert list(tmp_path.rglob("*.zip")) == []
        assert len(workspaces(tmp_path)) == 1
    finally:
        store.close()


def test_result_is_moved_from_the_workspace_without_a_copy(tmp_path: Path) -> None:
    files, id = Files(tmp_path), str(uuid.uuid4())
    made = files.workspace(id) / "large.safetensors"
    made.write_bytes(b"weights")
    file = made.stat().st_ino
    output = Output(data=made, media_type=OCTETS, name="large.safetensors")
    for _ in range(2):  # a run after a crash before the end was recorded
        (entry,) = files.write_results(id, [output])
        found = files.result(entry["name"])
        assert found is not None
        assert (found[1].stat().st_ino, found[1].read_bytes(), entry["bytes"]) == (file, b"weights", 7)
    files.remove_workspace(id)
    assert [path.name for path in (tmp_path / "tasks" / id[:2] / id).iterdir()] == [entry["name"]]


def test_result_outside_of_the_workspace_is_refused(tmp_path: Path) -> None:
    files, id = Files(tmp_path), str(uuid.uuid4())
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    link = files.workspace(id) / "link"
    link.symlink_to(outside)
    for path in (outside, link, files.workspace(id) / ".." / ".." / ".." / "secret", files.workspace(id) / "missing"):
        with pytest.raises(InvalidInput, match="not a file in the task's workspace"):
            files.write_results(id, [Output(data=path, media_type=OCTETS)])
    assert outside.exists()


def test_result_names_are_checked() -> None:
    for name in ("a/b", "../a", ".hidden", "", "a b", "a\n", "ü", "-rf", "x" * 101, 'a"b', "a\\b"):
        with pytest.raises(InvalidInput, match="name must be"):
            Output(data=b"", media_type=OCTETS, name=name)
    for media_type in ("png", "image/", "text/html; charset=utf-8", "a/b\r\nx: y", ""):
        with pytest.raises(InvalidInput, match="media_type must be"):
            Output(data=b"", media_type=media_type)


def test_result_names_are_a_files_own(tmp_path: Path) -> None:
    twice = [Output(data=b"", media_type=OCTETS, name="a.zip")] * 2
    with pytest.raises(InvalidInput, match="same name"):
        Files(tmp_path).write_results(str(uuid.uuid4()), twice)


@pytest.mark.parametrize(
    ("media_type", "name", "expected"),
    [
        (OCTETS, "weights.tar.GZ", "gz"),
        (OCTETS, "no_ending", "bin"),
        (OCTETS, "odd.ending-", "bin"),
        ("image/jpeg", None, "jpeg"),
        ("application/pdf", None, "pdf"),
        ("application/x-unheard-of", None, "bin"),
    ],
)
def test_result_extension(media_type: str, name: str | None, expected: str) -> None:
    assert extension(Output(data=b"", media_type=media_type, name=name)) == expected
