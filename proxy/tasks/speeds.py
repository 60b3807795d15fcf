"""Measured speeds of tasks in the database, and the queue estimates made from them. `Store` opens the transactions."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from proxy.load import Direct, Used
from proxy.operations import group_of, turn_of
from proxy.tasks.estimates import QueuedJob, Speed, Speeds, learnt_gain, speed_from, speed_of
from proxy.tasks.lanes import LANES
from proxy.tasks.models import LIVE, LaneLoad, QueueEstimate, QueueEstimates, Task
from proxy.tasks.schema import GAINS, PROXIES, SPEEDS, TASKS

BATCH_GAP = 1e-6
"""Tasks that arrive within this many seconds of each other belong to one batch."""
_BURST_SECONDS = 1.0
_LEAST_LEFT = 0.1
"""Smallest share of a running task's demand that is assumed to be left, however long it has run."""
_ESTIMATED = (
    "id",
    "operation",
    "lane",
    "state",
    "kind",
    "units",
    "pictures",
    "estimate",
    "step",
    "steps",
    "created_at",
    "exclusive",
)


def known(connection: sa.Connection, operation: str | None = None) -> dict[tuple[str, str], Speed]:
    """The measured speed by operation and kind, of all operations or of one."""
    query = sa.select(SPEEDS)
    if operation is not None:
        query = query.where(SPEEDS.c.operation == operation)
    return {(row.operation, row.kind): speed_from(row.learnt) for row in connection.execute(query)}


def gain(connection: sa.Connection, lane: str) -> float:
    """The measured gain from running tasks of a lane together; see `proxy.load.shares`."""
    return float(connection.scalar(sa.select(GAINS.c.gain).where(GAINS.c.id == LANES[lane].number)) or 0.0)


def learn(connection: sa.Connection, task: Task, used: Used) -> float:
    """Update the measurements with a finished task and return the new gain. Needs a locked transaction."""
    same = (SPEEDS.c.operation == task.operation, SPEEDS.c.kind == task.kind)
    stored, before = connection.scalar(sa.select(SPEEDS.c.learnt).where(*same)), gain(connection, task.lane)
    speed = speed_from(stored or {})
    after = learnt_gain(before, speed, task.pictures, task.units, used)
    if after != before:
        number = LANES[task.lane].number
        if not connection.execute(sa.update(GAINS).where(GAINS.c.id == number).values(gain=after)).rowcount:
            connection.execute(sa.insert(GAINS).values(id=number, gain=after))
    speed = speed.observed(task.pictures, task.units, used.seconds, company=used.company)
    values = {"learnt": speed.as_json()}
    if stored is not None:
        connection.execute(sa.update(SPEEDS).where(*same).values(**values))
    else:
        connection.execute(sa.insert(SPEEDS).values(operation=task.operation, kind=task.kind, **values))
    return after


def queue_estimates(connection: sa.Connection, loads: Mapping[str, LaneLoad], *, arriving: bool) -> QueueEstimates:
    """See `Store.queue_estimates`."""
    chosen = sa.select(*(TASKS.c[name] for name in _ESTIMATED)).where(TASKS.c.state.in_(LIVE))
    rows = connection.execute(chosen.order_by(TASKS.c.held, TASKS.c.order, TASKS.c.created_at)).all()
    learnt = known(connection)
    machines = max(1, int(connection.scalar(sa.select(sa.func.count()).select_from(PROXIES)) or 0))
    return {
        lane: _estimate_of_lane(
            [row for row in rows if row.lane == lane], load, learnt, gain(connection, lane), machines, arriving
        )
        for lane, load in loads.items()
    }


def _estimate_of_lane(
    rows: Sequence[Any], load: LaneLoad, learnt: Speeds, gain: float, machines: int, arriving: bool
) -> QueueEstimate:
    running, queue = ([_direct_job(one) for one in those] for those in load.direct)
    for row in rows:
        if row.state == "processing":
            running.append(_job(row, learnt, load.had.get(row.id, 0.0)))
        else:
            queue.append(_job(row, learnt, 0.0))
    recent = [row for row in rows if arriving and row.created_at > time.time() - _BURST_SECONDS]
    slots = load.slots * machines
    return QueueEstimate(
        running=running,
        queue=queue,
        expected=[_job(row, learnt, 0.0) for row in _arrivals(recent)][1:][-slots:],
        slots=slots,
        gain=gain,
        machines=machines,
    )


def _arrivals(rows: Sequence[Any]) -> list[Any]:
    """The rows without those that arrived in one batch with an earlier row."""
    ordered = sorted(rows, key=lambda row: row.created_at)
    before = [-math.inf, *(row.created_at for row in ordered)]
    return [row for one, row in zip(before, ordered, strict=False) if row.created_at - one > 1.5 * BATCH_GAP]


def _job(row: Any, learnt: Speeds, had: float) -> QueuedJob:
    """A queued job from a task's row. The work that is left follows from the steps or from the machine time used,
    whichever shows more progress."""
    speed = speed_of(learnt, row.operation, row.kind)
    demand = speed.demand(row.pictures, row.units) if speed else row.estimate
    by_steps = (demand - (speed.costs[0] * row.pictures if speed else 0.0)) * row.step / row.steps if row.steps else 0.0
    left = max(demand - max(had, by_steps), _LEAST_LEFT * demand) if row.state == "processing" else demand
    turn = turn_of(row.operation, demand, row.steps)
    return QueuedJob(id=row.id, group=group_of(row.operation), turn=turn, left=left, exclusive=row.exclusive or "")


def _direct_job(one: Direct) -> QueuedJob:
    return QueuedJob(group=one.group, turn=one.turn, left=one.left)
