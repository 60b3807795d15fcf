"""Lanes: kinds of tasks that do not wait for each other. Each has its own slots, queue, turns and estimates."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.settings import Settings
from proxy.gate import Gate


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A kind of task.

    :param name: the name in operations and in the rows of tasks.
    :param number: the id of its row in the table of gains.
    :param setting: the field of `Settings` with the number of its tasks that a proxy runs at a time.
    :param shared: whether it shares the slots of the gate with direct requests.
    :param queue: the name of its queue in DBOS.
    :param newcomers: the name of a second queue, for the first tasks of sources that had none. These tasks reach the
        gate even while long tasks of other sources run.
    :param polling_seconds: seconds between two polls of its queues by DBOS.
    """

    name: str
    number: int
    setting: str
    shared: bool = False
    queue: str
    newcomers: str | None = None
    polling_seconds: float


IMAGES = Lane(
    name="images",
    number=1,
    setting="max_concurrent_tasks",
    shared=True,
    queue="tasks",
    newcomers="newcomers",
    polling_seconds=0.25,
)
TRAINING = Lane(name="training", number=2, setting="training_concurrent_tasks", queue="training", polling_seconds=1.0)
LANES = {lane.name: lane for lane in (IMAGES, TRAINING)}


def gates_of(settings: Settings, shared: Gate) -> dict[str, Gate]:
    """The gate of each lane, by its name.

    :param shared: the gate of the service, which direct requests use.
    """
    return {
        lane.name: shared if lane.shared else Gate(capacity=getattr(settings, lane.setting), queue_size=0, guests=0)
        for lane in LANES.values()
    }
