"""What a task comes to: when its server dies, when it is at fault itself, and when we are stopped.

Real deaths are in tests/lifecycle/test_tasks_kill.py.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from darkroom.errors import DarkroomError, InvalidInput, NetworkError, NotReady
from proxy.tasks import runner
from proxy.tasks.files import Files
from proxy.tasks.models import Output, TaskContext
from tests.runner_bench import PICTURE, Bench, bench, run


def test_task_completes_with_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        for step in range(1, 6):
            context.emit(step, 5, None)
        return [PICTURE, PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            id = made.add()
            await made.runner.execute(id)
            task = made.task(id)
            assert (task.state, task.attempts, task.step, task.steps) == ("completed", 1, 5, 5)
            assert [result["name"] for result in task.results] == [f"{id}_0.png", f"{id}_1.png"]
            found = Files(tmp_path).result(task.results[1]["name"])
            assert found is not None
            assert found[1].read_bytes() == b"picture"
            await made.runner.execute(id)  # given out once more, by a recovery that came too late
            assert made.operation.runs == ["task"]
            assert made.gate.idle

    run(scenario)


@pytest.mark.parametrize("error", [NotReady("gone"), NetworkError("died"), DarkroomError("unexpected")])
def test_task_is_tried_again_after_a_failure_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: DarkroomError
) -> None:
    failures = 3

    async def body(context: TaskContext) -> list[Output]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise error
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            id = made.add()
            await made.runner.execute(id)
            assert (made.task(id).state, made.task(id).attempts) == ("completed", 4)

    run(scenario)


def test_task_that_kills_the_server_each_time_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs beside the killer dies with it. The killer uses up its attempts, the others complete."""
    crash = asyncio.Event

    async def scenario() -> None:
        death = crash()

        async def body(context: TaskContext) -> list[Output]:
            nonlocal death
            if context.fields["name"] == "killer":
                await asyncio.sleep(0.02)
                death.set()
                death = crash()
                raise NotReady("gone")
            dying = asyncio.ensure_future(death.wait())
            done, _ = await asyncio.wait({dying}, timeout=0.2)
            dying.cancel()
            if done:
                raise NotReady("gone")
            return [PICTURE]

        async with bench(tmp_path, body, monkeypatch) as made:
            ids = {name: made.add(name) for name in ("one", "killer", "two", "three")}
            await asyncio.gather(*(made.runner.execute(id) for id in ids.values()))
            states = {name: made.task(id).state for name, id in ids.items()}
            assert states == {"one": "completed", "killer": "failed", "two": "completed", "three": "completed"}
            killer = made.task(ids["killer"])
            assert killer.error is not None
            assert killer.error["code"] == "network_error"
            assert "each of the 5 attempts" in killer.error["message"]
            assert made.operation.runs.count("killer") == 5

    run(scenario)


def test_task_that_killed_the_service_too_often_is_not_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(context: TaskContext) -> list[Output]:
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch, task_max_attempts=3) as made:
            id = made.add()
            for run_name in ("a", "b", "c"):  # what a process that is killed leaves behind
                made.store.begin(id, run_name)
            await made.runner.execute(id)
            assert made.task(id).state == "failed"
            assert made.operation.runs == []

    run(scenario)


def test_task_fails_with_an_error_of_its_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        if context.fields["name"] == "wrong":
            raise InvalidInput("scale must be from 1 to 8; got 9.", param="scale")
        raise RuntimeError("a secret of ours")

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            wrong, broken = made.add("wrong"), made.add("broken")
            await made.runner.execute(wrong)
            await made.runner.execute(broken)
            message = "scale must be from 1 to 8; got 9."
            assert made.task(wrong).error == {"code": "invalid_input", "message": message, "param": "scale"}
            assert made.task(broken).state == "failed"
            assert "secret" not in str(made.task(broken).error)
            assert made.operation.runs == ["wrong", "broken"]

    run(scenario)


def test_task_without_steps_notices_a_cancellation_by_another_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LOOK_SECONDS", 0.05)
    stopped = asyncio.Event()

    async def body(context: TaskContext) -> list[Output]:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return []

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            id = made.add()
            job = asyncio.ensure_future(made.runner.execute(id))
            await made.operation.begun.acquire()
            assert made.store.end(id, None, "cancelled")  # as another proxy does
            await asyncio.wait_for(job, 10)
            assert stopped.is_set()
            assert made.task(id).state == "cancelled"

    run(scenario)


def test_task_keeps_its_number_of_steps_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOOK_SECONDS", 0.02)
    looked = asyncio.Event()

    async def body(context: TaskContext) -> list[Output]:
        await looked.wait()
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            noted, progress = list[int](), made.store.progress

            def note(id: str, run: str | None, step: int, steps: int) -> bool:
                noted.append(steps)
                looked.set()
                return progress(id, run, step, steps)

            monkeypatch.setattr(made.store, "progress", note)
            id = made.add()
            await made.runner.execute(id)
            assert set(noted) == {4}
            assert made.task(id).state == "completed"

    run(scenario)


def test_task_run_that_lost_ownership_keeps_the_images_of_the_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still; meanwhile another proxy took the task over and completed it."""

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            here.append(made)
            id = made.add()
            await made.runner.execute(id)
            assert Files(tmp_path).result(f"{id}_0.png")[1].read_bytes() == b"theirs"  # type: ignore[index]
            assert made.task(id).results == []

    async def body(context: TaskContext) -> list[Output]:
        (made,), (id,) = here, [task.id for task in here[0].store.living(before=float("inf"))]
        Files(tmp_path).write_results(id, [Output(data=memoryview(b"theirs"), media_type="image/png", details={})])
        assert made.store.end(id, None, "completed")
        return [PICTURE]

    here: list[Bench] = []
    run(scenario)


def test_task_fails_on_a_full_disk_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True

    def write(path: Path, data: bytes) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def body(context: TaskContext) -> list[Output]:
        return [PICTURE]

    async def scenario() -> None:
        nonlocal full
        monkeypatch.setattr("proxy.tasks.files.write_atomically", write)
        async with bench(tmp_path, body, monkeypatch) as made:
            first, second = made.add(), made.add()
            await made.runner.execute(first)
            error = made.task(first).error
            assert error is not None
            assert (error["code"], "no room" in error["message"]) == ("storage_full", True)
            full = False
            await made.runner.execute(second)
            assert made.task(second).state == "completed"

    run(scenario)


def test_task_without_progress_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        if len(made_runs) == 0:
            made_runs.append("stuck")
            await asyncio.sleep(30)
        return [PICTURE]

    made_runs: list[str] = []

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch, task_timeout=0.1) as made:
            id = made.add()
            await made.runner.execute(id)
            assert (made.task(id).state, made.task(id).attempts) == ("completed", 2)

    run(scenario)


def test_task_is_cancelled_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    async def body(context: TaskContext) -> list[Output]:
        context.emit(1, 100, None)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.append(context.fields["name"])
            raise
        return [PICTURE]

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            here, elsewhere = made.add("here"), made.add("elsewhere")
            both = [asyncio.ensure_future(made.runner.execute(id)) for id in (here, elsewhere)]
            for _ in both:
                await made.operation.begun.acquire()
            made.store.end(here, None, "cancelled")
            assert made.runner.cancel(here)
            await both[0]
            made.store.end(elsewhere, None, "cancelled")  # by another proxy: seen at the next step
            live = made.runner.live(elsewhere)
            assert live is not None
            live.emit(2, 100)
            await both[1]
            assert stopped == ["here", "elsewhere"]
            assert made.task(here).state == made.task(elsewhere).state == "cancelled"
            assert made.gate.idle

    run(scenario)


def test_task_stopped_with_the_service_is_queued_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(context: TaskContext) -> list[Output]:
        await asyncio.sleep(30)
        return []

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            running, waiting = made.add("running"), made.add("waiting")
            first = asyncio.ensure_future(made.runner.execute(running))
            await made.operation.begun.acquire()
            made.gate.draining = True
            second = asyncio.ensure_future(made.runner.execute(waiting))
            await asyncio.sleep(0.05)
            await made.runner.stop()
            assert first.cancelled()
            assert second.cancelled()
            assert [(made.task(id).state, made.task(id).attempts) for id in (running, waiting)] == [("queued", 0)] * 2
            assert made.operation.runs == ["running"]

    run(scenario)


def test_task_repeats_a_call_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(context: TaskContext) -> list[Output]:
        if len(made_runs) == 0:
            made_runs.append("broken")
            raise asyncio.CancelledError  # as gRPC does
        return [PICTURE]

    made_runs: list[str] = []

    async def scenario() -> None:
        async with bench(tmp_path, body, monkeypatch) as made:
            id = made.add()
            await made.runner.execute(id)
            assert (made.task(id).state, made.task(id).attempts) == ("completed", 2)

    run(scenario)
