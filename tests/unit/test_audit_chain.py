"""The chain of the audit trail: what `verify` finds, retention, several writers, and the commands."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from darkroom.errors import NotReady
from darkroom.settings import Settings
from proxy.audit import chain, trail
from proxy.audit.cli import audit
from proxy.audit.entries import Entries
from proxy.audit.schema import HEAD, ROWS
from proxy.audit.tasks import TaskRows
from proxy.audit.trail import Trail
from proxy.audit.words import Words
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.task_store import add, draft


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'darkroom.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(connect(url))
    store.create()
    yield store
    store.close()


def fill(store: Store, count: int = 6) -> None:
    """Write rows in transactions of two."""
    for at in range(0, count, 2):
        with store.transaction() as connection:
            chain.append(connection, [{"event": "request", "path": f"/{one}"} for one in (at, at + 1)])


def problems(store: Store, known: dict[int, str] | None = None) -> list[str]:
    with store.transaction() as connection:
        return chain.verify(connection, known).problems


def change(store: Store, *statements: sa.Executable) -> None:
    with store.transaction() as connection:
        for statement in statements:
            connection.execute(statement)


def content_of(store: Store, seq: int) -> str:
    with store.transaction() as connection:
        return str(connection.scalar(sa.select(ROWS.c.content).where(ROWS.c.seq == seq)))


def command(url: str, *words: str) -> Result:
    return CliRunner().invoke(audit, list(words), env={"DATABASE_URL": url})


def test_chain_that_nobody_touched_is_intact(store: Store) -> None:
    assert problems(store) == []
    fill(store)
    with store.transaction() as connection:
        found = chain.verify(connection)
    assert (found.rows, found.seq, found.problems) == (6, 6, [])


def test_changed_row_is_found(store: Store) -> None:
    fill(store)
    change(store, sa.update(ROWS).where(ROWS.c.seq == 3).values(content=content_of(store, 3).replace("/2", "/9")))
    assert problems(store) == ["row 3 is changed"]


def test_changed_row_is_found_when_its_hash_is_made_anew(store: Store) -> None:
    fill(store)
    content = content_of(store, 3).replace("/2", "/9")
    with store.transaction() as connection:
        previous = str(connection.scalar(sa.select(ROWS.c.previous).where(ROWS.c.seq == 3)))
    forged = chain.hash_of(previous, content)
    change(store, sa.update(ROWS).where(ROWS.c.seq == 3).values(content=content, hash=forged))
    assert problems(store) == ["row 4 does not follow row 3: one of them is changed, or rows are removed"]


def test_changed_time_is_found(store: Store) -> None:
    fill(store)
    change(store, sa.update(ROWS).where(ROWS.c.seq == 3).values(at=ROWS.c.at - 1))
    assert problems(store) == ["row 3 is changed: its time is not the one that it was written with"]


def test_removed_rows_are_found(store: Store) -> None:
    fill(store)
    change(store, sa.delete(ROWS).where(ROWS.c.seq.in_([3, 4])))
    assert problems(store) == ["rows 3 to 4 are removed"]
    change(store, sa.delete(ROWS).where(ROWS.c.seq == 1))
    assert problems(store)[-1] == "rows up to 1 are removed, and no later row says so"


def test_rows_removed_at_the_end_are_found(store: Store) -> None:
    fill(store)
    change(store, sa.delete(ROWS).where(ROWS.c.seq > 4))
    assert problems(store) == ["rows 5 to 6 are removed at the end"]
    change(store, sa.delete(ROWS))
    assert problems(store) == ["rows 1 to 6 are removed at the end"]


def test_reordered_rows_are_found(store: Store) -> None:
    fill(store)
    swap = ((3, 100), (4, 3), (100, 4))
    change(store, *(sa.update(ROWS).where(ROWS.c.seq == one).values(seq=other) for one, other in swap))
    found = problems(store)
    assert "row 3 is reordered: it was written as row 4" in found
    assert "row 4 is reordered: it was written as row 3" in found


def test_chain_that_was_written_anew_is_found_with_a_known_hash(store: Store) -> None:
    fill(store)
    with store.transaction() as connection:
        known = {6: str(connection.scalar(sa.select(ROWS.c.hash).where(ROWS.c.seq == 6)))}
    assert problems(store, known) == []
    change(store, sa.delete(ROWS), sa.update(HEAD).values(seq=0, hash="0" * 64))
    fill(store)
    assert problems(store) == []
    assert problems(store, known) == ["row 6 is changed: its hash is not the one that is known of it"]
    change(store, sa.delete(ROWS), sa.update(HEAD).values(seq=0, hash="0" * 64))
    assert problems(store, known) == ["row 6 is not there, whose hash is known"]


def test_row_that_is_no_json_is_found(store: Store) -> None:
    fill(store)
    change(store, sa.update(ROWS).where(ROWS.c.seq == 2).values(content="}"))
    assert problems(store) == ["row 2 is changed"]


def test_old_rows_are_deleted_and_the_rest_is_intact(store: Store) -> None:
    fill(store)
    with store.transaction() as connection:
        times = list(connection.scalars(sa.select(ROWS.c.at).order_by(ROWS.c.seq)))
        wanted = max(seq for seq, at in enumerate(times) if at < times[3]) + 1
        assert chain.prune(connection, before=times[3]) == wanted
        assert chain.prune(connection, before=times[3]) == 0
    assert problems(store) == []
    change(store, sa.delete(ROWS).where(ROWS.c.seq == wanted + 1))
    assert problems(store) == [f"rows up to {wanted + 1} are removed, and no later row says so"]


def test_all_rows_may_be_too_old(store: Store) -> None:
    fill(store)
    with store.transaction() as connection:
        assert chain.prune(connection, before=2**62) == 6
    fill(store, 2)
    assert problems(store) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_writers_make_one_valid_chain(kind: str, request: pytest.FixtureRequest, url: str) -> None:
    """Two writers with connections of their own, and tasks' transactions between theirs."""
    address = url if kind == "sqlite" else str(request.getfixturevalue("postgres"))
    rows_of_tasks = TaskRows(Entries(Settings(_env_file=None), Words(None)))
    stores = [Store(connect(address), rows_of_tasks) for _ in range(2)]
    for one in stores:
        one.create()

    def task(one: Store) -> None:
        for made in add(one, draft(), draft()):
            one.end(made.id, None, "completed")

    async def write(one: Store) -> None:
        writer = Trail(one)
        for burst in (1, 30, 7):
            writing = [writer.write({"event": "request", "status": burst}) for _ in range(burst)]
            await asyncio.gather(*writing, one.call(task, one))
        await writer.stop()

    with stores[0].transaction() as connection:
        before = chain.verify(connection).rows
    threads = [threading.Thread(target=asyncio.run, args=(write(one),)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stores[0].transaction() as connection:
        found = chain.verify(connection)
    assert (found.rows - before, found.problems) == (2 * (38 + 3 * 4), [])
    for one in stores:
        one.close()


def test_row_that_cannot_be_written_refuses_its_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        writer = Trail(store)
        change(store, sa.text("ALTER TABLE darkroom_audit RENAME TO elsewhere"))
        writer.check()
        with pytest.raises(NotReady, match="audit"):
            await writer.write({"event": "request"})
        with pytest.raises(NotReady, match="audit"):
            writer.check()  # at once, while it is known
        change(store, sa.text("ALTER TABLE elsewhere RENAME TO darkroom_audit"))
        await writer.write({"event": "request"})
        writer.check()

    asyncio.run(scenario())
    assert problems(store) == []


def test_database_that_does_not_answer_refuses_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_ANSWER_SECONDS", 0.05)
    blocked = threading.Event()

    async def scenario() -> None:
        writer = Trail(store)
        monkeypatch.setattr(store, "call", lambda work, *given: asyncio.to_thread(blocked.wait))
        try:
            with pytest.raises(NotReady, match="audit"):
                await writer.write({"event": "request"})
        finally:
            blocked.set()
        await writer.stop()

    asyncio.run(scenario())


def test_commands_verify_and_export(store: Store, url: str) -> None:
    with store.transaction() as connection:
        chain.append(connection, [{"event": "request", "prompts": {"prompt": "鴨"}, "key": "=1+1", "inputs": ["ab"]}])
    fine = command(url, "verify")
    assert fine.exit_code == 0, fine.output
    assert fine.output.startswith("1 rows are intact; the end is 1:")
    assert command(url, "verify", "--known", fine.output.split()[-1]).exit_code == 0
    assert "must be a number, a colon" in command(url, "verify", "--known", "x").output
    (line,) = command(url, "export").output.splitlines()
    told = json.loads(line)
    assert (told["seq"], told["prompts"], told["row_previous"]) == (1, {"prompt": "鴨"}, "0" * 64)
    (row,) = csv.DictReader(io.StringIO(command(url, "export", "--format", "csv").output))
    assert (row["key"], json.loads(row["prompts"]), row["inputs"]) == ("'=1+1", {"prompt": "鴨"}, '["ab"]')
    assert command(url, "export", "--since", "2100-01-01").output == ""
    assert command(url, "export", "--until", "2001-01-01").output == ""
    assert json.loads(command(url, "export", "--since", "2001-01-01", "--until", "2100-01-01T00:00:00").output) == told
    change(store, sa.update(ROWS).values(content=ROWS.c.content + " "))
    broken = command(url, "verify")
    assert (broken.exit_code, broken.output) == (1, "row 1 is changed.\n")


def test_commands_without_a_trail_say_so(tmp_path: Path) -> None:
    missing = command(f"sqlite:///{tmp_path / 'nothing.db'}", "verify")
    assert (missing.exit_code, "does not exist" in missing.output) == (1, True)
    assert not (tmp_path / "nothing.db").exists()
    (tmp_path / "empty.db").touch()
    assert "The setting DATABASE_URL is wrong" in command("mysql://nobody", "verify").output
    assert "no audit trail in this database" in command(f"sqlite:///{tmp_path / 'empty.db'}", "verify").output
