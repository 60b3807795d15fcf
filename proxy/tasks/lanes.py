"""Lanes: kinds of tasks that do not wait for each other. Each has slots, a queue, turns and estimates of its own."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.settings import Settings
from proxy.gate import Gate


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A kind of tasks.

    :param name: what operations and the rows of tasks call it.
    :param number: of its row in the table of gains.
    :param setting: the field of `Settings` that says how many of its tasks a proxy runs at a time.
    :param shared: whether its slots are those of the gate, which direct requests want as well.
    :param queue: the name of its queue in DBOS.
    :param newcomers: the name of a second one, for the first tasks of sources that had none: they come to the gate
        although what runs is another source's and long.
    :param polling_seconds: how often DBOS looks into them.
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

    :param shared: that of the service.
    """
    return {
        lane.name: shared if lane.shared else Gate(capacity=getattr(settings, lane.setting), queue_size=0, guests=0)
        for lane in LANES.values()
    }
