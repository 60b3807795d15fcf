"""Lanes: trainings and images do not wait for each other."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import ClassVar

import pytest

from darkroom.errors import InvalidInput, QueueFull
from proxy import operations
from proxy.load import Used
from proxy.tasks.database import connect
from proxy.tasks.lanes import IMAGES, LANES, TRAINING
from proxy.tasks.models import Draft, LaneLoad, Task
from proxy.tasks.store import Store
from tests.file_maker import FileMaker, work
from tests.tasks_part import Noted, part


class Training(FileMaker):
    """Needs no model of Triton's."""

    name = "training"
    lane: ClassVar[str] = "training"
    pipeline = None


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Noted:
    made = Noted()
    monkeypatch.setitem(operations.OPERATIONS, made.name, made)
    return made


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    made = Training(pause_at=2)
    monkeypatch.setitem(operations.OPERATIONS, made.name, made)
    return made


def test_lanes_do_not_wait_for_each_other(
    tmp_path: Path, database: str | None, images: Noted, training: Training
) -> None:
    async def scenario() -> None:
        async with part(tmp_path, database, images) as made:
            first = await made.submit("image")
            await images.begun.acquire()
            trainings = [await made.submit_work(work(name), operation="training") for name in ("one", "two")]
            await training.paused.acquire()  # though the only slot of the images is taken
            second = await made.submit("image")
            assert (made.gate.active, training.runs) == (1, ["one"])
            estimates = await made.tasks.queue_estimates()
            positions = [estimates[task.lane].position(task.id) for task in (second, trainings[1])]
            assert positions == [1, 1]
            images.go_on.set()
            for task in (first, second):
                assert (await made.ended(task)).state == "completed"
            assert (training.runs, training.resumed) == (["one"], [0])  # one at a time
            training.go_on.set()
            for task in trainings:
                assert (await made.ended(task)).state == "completed"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_training_does_not_wait_for_models(tmp_path: Path, images: Noted, training: Training) -> None:
    async def scenario() -> None:
        training.go_on.set()
        async with part(tmp_path, None, images) as made:
            made.monitor.all_ready = False
            image = await made.submit("image")
            trained = await made.submit_work(work(), operation="training")
            assert (await made.ended(trained)).state == "completed"
            assert (await made.tasks.get(image.id)).state == "queued"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_training_does_not_delay_a_shutdown_and_resumes(tmp_path: Path, images: Noted, training: Training) -> None:
    async def scenario() -> None:
        async with part(tmp_path, None, images) as made:
            task = await made.submit_work(work(), operation="training")
            await training.paused.acquire()
            made.gate.draining = True
            await asyncio.wait_for(made.gate.wait_idle(), 10)
        training.go_on.set()
        async with part(tmp_path, None, images) as made:
            assert (await made.ended(task)).attempts == 1
            assert training.resumed == [0, 2]

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_full_lane_refuses_only_its_own(tmp_path: Path, images: Noted, training: Training) -> None:
    async def scenario() -> None:
        async with part(tmp_path, None, images, task_queue_size=1) as made:
            sent = [await made.submit("image")]
            await images.begun.acquire()
            sent.append(await made.submit("image"))
            with pytest.raises(QueueFull, match="1 run and 1 wait"):
                await made.submit("image")
            with pytest.raises(QueueFull):
                made.tasks.check(1, None, "images")
            made.tasks.check(1, None)  # it may be a training
            made.tasks.check(1, None, "training")
            trained = await made.submit_work(work(), operation="training")
            with pytest.raises(InvalidInput, match=r"at most 2.*TRAINING_CONCURRENT_TASKS"):
                made.tasks.check(3, None, "training")
            images.go_on.set()
            training.go_on.set()
            for task in (*sent, trained):
                assert (await made.ended(task)).state == "completed"

    asyncio.run(asyncio.wait_for(scenario(), 120))


def draft(lane: str, client: str = "c") -> Draft:
    made = work(lane)
    return Draft(
        id=str(uuid.uuid4()),
        operation=lane,
        lane=lane,
        client=client,
        priority="normal",
        key=None,
        digest="",
        work=made,
    )


def add(store: Store, *drafts: Draft) -> list[Task]:
    return [task for task, _ in store.add(drafts, slots=1, queue_size=9, fallback=1.0)]


def test_turns_and_estimates_of_a_lane_are_its_own(tmp_path: Path) -> None:
    store = Store(connect(f"sqlite:///{tmp_path / 'darkroom.db'}"))
    store.create()
    try:
        trainings = add(store, *(draft("training") for _ in range(3)))
        (image,) = add(store, draft("images"))
        assert image.order == trainings[0].order
        assert not image.newcomer, "its lane is empty"
        loads = {lane: LaneLoad(slots=1) for lane in LANES}
        estimates = store.queue_estimates(loads)
        assert estimates["images"].waiting == [image.id]
        assert estimates["training"].waiting == [task.id for task in trainings]
        alone = estimates["images"].seconds_until_done(image)
        store.begin(trainings[0].id, "run")
        assert store.queue_estimates(loads)["images"].seconds_until_done(image) == alone
        for _ in range(9):  # trainings that gain nothing by running together
            store.measured(trainings[0], Used(seconds=1.0))
        store.measured(trainings[0], Used(seconds=2.0, company=1.0))
        assert store.gain("training") < 0 == store.gain("images")
    finally:
        store.close()


def test_lanes_are_data() -> None:
    assert [lane.number for lane in LANES.values()] == [1, 2]
    queues = [name for lane in LANES.values() for name in (lane.queue, lane.newcomers) if name]
    assert len(queues) == len(set(queues))
    assert (IMAGES.shared, TRAINING.shared) == (True, False)
    assert {operation.lane for operation in operations.OPERATIONS.values()} <= LANES.keys()
