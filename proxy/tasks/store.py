"""The tasks in the database, as clients see them. SQLite and PostgreSQL, with the same statements.

Every change of a task's state is one conditional UPDATE: only the process that finds the condition true makes the
change. The methods wait for the database; `Store.call` runs them in a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from darkroom.errors import Conflict, Gone, NotReady, QueueFull
from darkroom.serving.calls import TRACEPARENT
from proxy.keys import quotas
from proxy.load import Used
from proxy.migrations import upgrade
from proxy.tasks import exclusive, speeds
from proxy.tasks.database import CONNECTIONS
from proxy.tasks.estimates import speed_of
from proxy.tasks.models import LIVE, PRIORITIES, UNFINISHED, Draft, LaneLoad, QueueEstimates, State, Task
from proxy.tasks.schema import DATABASES, TASKS

log = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

_ADMISSION_LOCK = 0x6461726B  # an arbitrary number; no other application may use it in this database
_PRIORITY_STEP = 2**29
"""`order` is the index of the priority times this number, plus the round. DBOS accepts priorities up to 2^31 - 1."""
IDS_AT_A_TIME = 500
"""Maximum number of ids in one statement, because databases limit it."""
_KEY = "Idempotency-Key"


class Store:
    """Reads and writes the table of tasks, and the measured speeds.

    :param audit: is called in the transaction that accepts or ends a task.
    """

    def __init__(self, engine: sa.Engine, audit: Callable[[sa.Connection, Task], None] | None = None) -> None:
        self._engine, self._audit = engine, audit or (lambda connection, task: None)
        self.one_writer = engine.dialect.name == "sqlite"  # it locks the whole database, others lock rows
        # Our own threads, at most one for each connection, however many requests arrive at once.
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="tasks-store")

    async def call(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """Run a function that waits for the database in a thread."""
        context = contextvars.copy_context()  # the log needs the request's id
        job = partial(context.run, work, *given, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, job)

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        self._engine.dispose()

    def create(self) -> None:
        """Create the tables, or bring those of an older release up to date.

        :raises Conflict: a newer release has made them.
        """
        with self.transaction(locked=True) as connection:
            upgrade(connection)
            if connection.scalar(sa.select(DATABASES.c.id)) is None:
                connection.execute(sa.insert(DATABASES).values(id=str(uuid.uuid4())))

    def database(self) -> str:
        """Return the unique name of this database."""
        with self.transaction() as connection:
            return str(connection.scalar(sa.select(DATABASES.c.id)))

    @contextmanager
    def transaction(self, *, locked: bool = False) -> Iterator[sa.Connection]:
        """Run a transaction. Those that are `locked` never overlap with each other.

        :raises NotReady: the database is unavailable or cannot write.
        """
        try:
            with self._engine.begin() as connection:
                if locked and self.one_writer:
                    connection.execute(sa.text("BEGIN IMMEDIATE"))
                elif locked:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADMISSION_LOCK)))
                yield connection
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
            log.error("the database of tasks does not work: %s", error.orig)
            raise NotReady("The database of tasks does not answer; try again in a moment.", retry_after=5) from error

    def add(self, drafts: Sequence[Draft], *, slots: int, queue_size: int, fallback: float) -> list[tuple[Task, bool]]:
        """Accept all of the drafts, which are of one lane, or none. For a draft that was accepted before under the same
        Idempotency-Key the existing task is returned.

        :param slots: number of tasks that run at a time.
        :param fallback: seconds per unit, for kinds that were never measured.
        :returns: each task, and whether it is new.
        :raises Conflict: a different request had that Idempotency-Key; or there is a task with the same key of
            `Work.exclusive`, and the new one must not wait for it.
        :raises Gone: the task with the Idempotency-Key is deleted.
        :raises QueueFull: there is no room for all of them, or (RateLimited) the key may not have so many.
        """
        with self.transaction(locked=True) as connection:
            known = self._known(connection, drafts, slots=slots, queue_size=queue_size)
            now = time.time()
            return [
                (task, False)
                if task
                else (self._insert(connection, draft, fallback, now + index * speeds.BATCH_GAP, slots), True)
                for index, (draft, task) in enumerate(zip(drafts, known, strict=True))
            ]

    def check_room(self, drafts: Sequence[Draft], *, slots: int, queue_size: int) -> list[Task] | None:
        """Check whether `add` would accept the drafts, before files are written.

        :returns: the tasks, if all drafts were accepted before, else None.
        :raises Conflict, Gone, QueueFull: as `add`.
        """
        with self.transaction() as connection:
            known = self._known(connection, drafts, slots=slots, queue_size=queue_size)
        accepted = [task for task in known if task is not None]
        return accepted if len(accepted) == len(drafts) else None

    def _known(
        self, connection: sa.Connection, drafts: Sequence[Draft], *, slots: int, queue_size: int
    ) -> list[Task | None]:
        """Return the existing task of each draft, or None; checks that there is room for the others."""
        known = [self._repeated(connection, draft) for draft in drafts]
        new = [draft for draft, task in zip(drafts, known, strict=True) if task is None]
        if new:
            self._require_room(connection, new, slots=slots, queue_size=queue_size)
            quotas.require(connection, new)
        return known

    def _require_room(self, connection: sa.Connection, new: Sequence[Draft], *, slots: int, queue_size: int) -> None:
        lane, count = TASKS.c.lane == new[0].lane, len(new)
        busy, waiting = (int(connection.scalar(_count(lane, TASKS.c.state == state)) or 0) for state in LIVE[::-1])
        if count > max(0, queue_size + max(0, slots - busy) - waiting):
            raise QueueFull(f"The queue of tasks is full: {busy} run and {waiting} wait.")

    def _repeated(self, connection: sa.Connection, draft: Draft) -> Task | None:
        if draft.key is None:
            return None
        same = (TASKS.c.client == draft.client, TASKS.c.idempotency_key == draft.key)
        row = connection.execute(sa.select(TASKS).where(*same)).one_or_none()
        if row is None:
            return None
        if row.digest != draft.digest:
            raise Conflict(f"Another request came with this key; it made task {row.id}.", param=_KEY)
        if row.expired_at is not None:
            raise Gone(f"What came with this key made task {row.id}, whose results are deleted.", param=_KEY)
        return task_of(row)

    def _insert(self, connection: sa.Connection, draft: Draft, fallback: float, now: float, slots: int) -> Task:
        quotas.record(connection, draft)
        round = self._next_round(connection, draft)
        work = draft.work
        speed = speed_of(speeds.known(connection, draft.operation), draft.operation, work.kind)
        estimate = speed.demand(work.pictures, work.units) if speed else fallback * work.units
        row = connection.execute(
            sa.insert(TASKS)
            .values(
                id=draft.id,
                operation=draft.operation,
                requested_operation=draft.requested_operation,
                lane=draft.lane,
                client=draft.client,
                source=draft.source,
                exclusive=work.exclusive,
                held=exclusive.is_held(connection, draft),
                newcomer=self._is_newcomer(connection, draft, slots),
                priority=draft.priority,
                state="queued",
                round=round,
                order=PRIORITIES.index(draft.priority) * _PRIORITY_STEP + min(round, _PRIORITY_STEP - 1) + 1,
                idempotency_key=draft.key,
                digest=draft.digest,
                attempts=0,
                fields={**work.fields, **({TRACEPARENT: draft.traceparent} if draft.traceparent else {})},
                files=sorted(work.files),
                step=0,
                steps=work.steps,
                kind=work.kind,
                units=work.units,
                pictures=work.pictures,
                estimate=estimate,
                created_at=now,
                bytes=sum(len(data) for data in work.files.values()),
                results=[],
            )
            .returning(*TASKS.c)
        ).one()
        self._audit(connection, task := task_of(row))
        return task

    def _next_round(self, connection: sa.Connection, draft: Draft) -> int:
        """Start-time fair queueing (Goyal, Vin, Cheng 1996), every task of the same length: a source's next task comes
        one round after its last one, and never before the round that is being served."""
        live = (TASKS.c.state.in_(LIVE), TASKS.c.lane == draft.lane, TASKS.c.priority == draft.priority)
        served = connection.scalar(sa.select(sa.func.max(TASKS.c.round)).where(*live, TASKS.c.state == "processing"))
        if served is None:
            served = connection.scalar(sa.select(sa.func.min(TASKS.c.round)).where(*live))
        last = connection.scalar(sa.select(sa.func.max(TASKS.c.round)).where(*live, _same_source(draft)))
        return max(served or 0, 0 if last is None else last + 1)

    def _is_newcomer(self, connection: sa.Connection, draft: Draft, slots: int) -> bool:
        """Whether its source has no other task, others have at least one for every slot, and nothing of a higher
        priority waits."""
        lane, ahead = TASKS.c.lane == draft.lane, TASKS.c.order <= PRIORITIES.index(draft.priority) * _PRIORITY_STEP
        live = (lane, TASKS.c.state.in_(LIVE))
        return (
            int(connection.scalar(_count(*live)) or 0) >= slots
            and not connection.scalar(_count(*live, _same_source(draft)))
            and not connection.scalar(_count(lane, TASKS.c.state == "queued", ahead))
        )

    def get(self, id: str) -> Task | None:
        """Return a task, or None."""
        with self.transaction() as connection:
            row = connection.execute(sa.select(TASKS).where(TASKS.c.id == id)).one_or_none()
        return None if row is None else task_of(row)

    def accepted(self, ids: Sequence[str]) -> set[str]:
        """As `known`, but waits for acceptances that are in progress."""
        with self.transaction(locked=True) as connection:
            return set(connection.scalars(sa.select(TASKS.c.id).where(TASKS.c.id.in_(ids))))

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that belong to tasks."""
        found: set[str] = set()
        for at in range(0, len(ids), IDS_AT_A_TIME):
            query = sa.select(TASKS.c.id).where(TASKS.c.id.in_(ids[at : at + IDS_AT_A_TIME]))
            with self.transaction() as connection:
                found |= set(connection.scalars(query))
        return found

    def page(self, *, client: str | None, state: State | None, limit: int) -> list[Task]:
        """Return a client's tasks (None: all), newest first, without those whose results are deleted."""
        mine = sa.true() if client is None else TASKS.c.client == client
        query = sa.select(TASKS).where(mine, TASKS.c.expired_at.is_(None))
        if state is not None:
            query = query.where(TASKS.c.state == state)
        with self.transaction() as connection:
            return [task_of(row) for row in connection.execute(query.order_by(TASKS.c.created_at.desc()).limit(limit))]

    def living(self, *, before: float) -> list[Task]:
        """Return the tasks that have not ended and were created before that time."""
        query = sa.select(TASKS).where(TASKS.c.state.in_(LIVE), TASKS.c.created_at < before)
        with self.transaction() as connection:
            return [task_of(row) for row in connection.execute(query)]

    def counts(self, *, live: bool = False) -> dict[str, int]:
        """Return the number of tasks in each state.

        :param live: count only waiting and running tasks; this takes no longer when there are many ended ones.
        """
        which = TASKS.c.state.in_(LIVE) if live else sa.true()
        query = sa.select(TASKS.c.state, sa.func.count()).where(which).group_by(TASKS.c.state)
        with self.transaction() as connection:
            return {str(state): int(count) for state, count in connection.execute(query)}

    def queue_estimates(self, loads: Mapping[str, LaneLoad], *, arriving: bool = False) -> QueueEstimates:
        """Return the running and waiting tasks in each of these lanes.

        :param arriving: expect as many further tasks as arrived in the last second, up to the number of slots.
        """
        with self.transaction() as connection:
            return speeds.queue_estimates(connection, loads, arriving=arriving)

    def begin(self, id: str, run: str, worker: str | None = None) -> Task | None:
        """Begin a run with a unique name; from now on only this run may write. Returns None if the task has ended.
        Another call for the same run, because the first answer was lost, does not count as another attempt.

        :param worker: for a task with a key, the proxy that runs it: the key is in use until `stopped` is called.
        """
        attempts = sa.case((TASKS.c.run == run, TASKS.c.attempts), else_=TASKS.c.attempts + 1)
        values = {"state": "processing", "run": run, "attempts": attempts, "step": 0, "worker": worker}
        return self._update(id, None, {**values, "started_at": time.time()})

    def progress(self, id: str, run: str | None, step: int, steps: int) -> bool:
        """Record the progress. False if the run no longer owns the task, because it was cancelled or taken over."""
        return self._update(id, run, {"step": step, "steps": steps}) is not None

    def end(self, id: str, run: str | None, state: State, values: Mapping[str, Any] | None = None) -> bool:
        """Record the final state. False if the task has already ended, or another run owns it.

        :param run: None skips the check of the owner.
        :param values: values of other columns.
        """
        changed = {"state": state, "completed_at": time.time(), **(values or {})}
        return self._update(id, run, changed, of=UNFINISHED) is not None

    def hand_back(self, id: str, run: str) -> bool:
        """Queue a task again whose run this service stopped; the run does not count as an attempt."""
        values = {"state": "queued", "run": None, "worker": None, "attempts": TASKS.c.attempts - 1}
        return self._update(id, run, values) is not None

    def wait_again(self, id: str, run: str) -> bool:
        """Queue a task again whose run failed."""
        return self._update(id, run, {"state": "queued", "run": None, "worker": None, "step": 0}) is not None

    def stopped(self, id: str, run: str, step: int | None = None) -> None:
        """Record that the run of a task with a key has stopped; see `proxy.tasks.exclusive`.

        :param step: the step that a paused run has saved.
        """
        saved = TASKS.c.step if step is None else sa.case((TASKS.c.state == "paused", step), else_=TASKS.c.step)
        query = sa.update(TASKS).where(TASKS.c.id == id, TASKS.c.run == run).values(worker=None, step=saved)
        with self.transaction() as connection:
            connection.execute(query)

    def release(self) -> list[Task]:
        """Release tasks that were held for others with the same key, and return them; the caller queues them."""
        with self.transaction() as connection:
            if not exclusive.is_any_held(connection):
                return []
        with self.transaction(locked=True) as connection:
            return [task_of(row) for row in exclusive.release(connection)]

    def workers(self) -> set[str]:
        """Return the proxies that may run tasks with keys."""
        with self.transaction() as connection:
            return set(connection.scalars(sa.select(TASKS.c.worker).where(TASKS.c.worker.is_not(None)).distinct()))

    def forget_workers(self, gone: Collection[str]) -> None:
        """Record that all runs of these proxies have stopped."""
        with self.transaction() as connection:
            connection.execute(sa.update(TASKS).where(TASKS.c.worker.in_(gone)).values(worker=None))

    def _update(self, id: str, run: str | None, values: dict[str, Any], of: tuple[State, ...] = LIVE) -> Task | None:
        query = sa.update(TASKS).where(TASKS.c.id == id, TASKS.c.state.in_(of)).values(**values).returning(*TASKS.c)
        if run is not None:
            query = query.where(TASKS.c.run == run)
        with self.transaction() as connection:
            row = connection.execute(query).one_or_none()
            task = None if row is None else task_of(row)
            if task is not None and task.ended:
                self._audit(connection, task)
        return task

    def gain(self, lane: str) -> float:
        """Return the measured gain of running tasks of a lane together; see `proxy.load.shares`."""
        with self.transaction() as connection:
            return speeds.gain(connection, lane)

    def measured(self, task: Task, used: Used) -> float:
        """Update the measurements with a finished task.

        :returns: the new gain; see `proxy.load.shares`.
        """
        with self.transaction(locked=True) as connection:
            return speeds.learn(connection, task, used)


def _same_source(draft: Draft) -> sa.ColumnElement[bool]:
    return sa.func.coalesce(TASKS.c.source, TASKS.c.client) == (draft.source or draft.client)


def _count(*where: Any) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(TASKS).where(*where)


def task_of(row: Any) -> Task:
    """Convert a row of the table to a task. What belongs to its trace stands among the fields of the request."""
    values = {name: getattr(row, name) for name in Task.__dataclass_fields__ if name != TRACEPARENT}
    fields = {name: value for name, value in row.fields.items() if name != TRACEPARENT}
    return Task(**values | {"fields": fields}, traceparent=row.fields.get(TRACEPARENT, ""))
