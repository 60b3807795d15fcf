"""Databases of older and newer releases."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import proxy.sdapi.options  # noqa: F401  its table is one of METADATA
from darkroom.errors import Conflict
from darkroom.settings import Settings
from proxy import migrations
from proxy.audit import chain
from proxy.audit import schema as audit
from proxy.keys import store as keys
from proxy.migrations import VERSION_TABLE, newest, version_of
from proxy.tasks.database import connect
from proxy.tasks.schema import METADATA
from proxy.tasks.store import Store
from supervisor.preflight import database_problems
from tests.postgres import Postgres, running_postgres

DUMPS = Path(__file__).parents[1] / "data" / "databases"
FIRST = "00000000-0000-4000-8000-000000000000"

Url = Callable[[str | None], str]
"""The URL of a new database, with the rows of a dump."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Url]:
    if request.param == "sqlite":

        def file(dump: str | None) -> str:
            path = tmp_path / "darkroom.db"
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript((DUMPS / f"{dump}.sqlite.sql").read_text() if dump else "")
            return f"sqlite:///{path}"

        yield file
        return
    yield partial(_on_postgres, request.getfixturevalue("postgres"))


def _on_postgres(server: Postgres, dump: str | None) -> str:
    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = server.url.removesuffix("postgres") + name
    if dump:
        with psycopg.connect(url) as connection:
            connection.execute((DUMPS / f"{dump}.postgresql.sql").read_bytes())
    return url


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def store(database: Url, request: pytest.FixtureRequest) -> Iterator[Store]:
    store = Store(connect(database(getattr(request, "param", None))))
    yield store
    store.close()


def differences(store: Store) -> list[object]:
    """What is otherwise in the database than the code says, in the tables of Darkroom."""

    def ours(name: str | None, kind: str, _: object) -> bool:
        return kind != "table" or ((name or "").startswith("darkroom_") and name != VERSION_TABLE)

    with store.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": ours, "target_metadata": METADATA})
        both = sa.MetaData()
        for table in (*METADATA.tables.values(), *audit.METADATA.tables.values()):
            table.to_metadata(both)
        return list(compare_metadata(context, both))


def test_new_database_has_the_tables_of_the_code(store: Store) -> None:
    store.create()
    assert differences(store) == []
    with store.transaction() as connection:
        assert version_of(connection) == newest()


@pytest.mark.parametrize("store", ["landed"], indirect=True)
def test_database_without_versions_keeps_its_rows(store: Store) -> None:
    store.create()
    assert differences(store) == []
    task = store.get(FIRST)
    assert task is not None
    assert (task.client, task.state, task.results[0]["name"]) == ("anna", "completed", f"{FIRST}_0.png")
    assert store.counts() == {"completed": 1, "processing": 1, "queued": 1}
    assert [key.name for key in keys.keys(store)] == ["anna"]
    with store.transaction() as connection:
        assert chain.verify(connection).rows == 1
        assert connection.scalar(sa.text("SELECT options FROM darkroom_web_ui_options")) == '{"a": 1}'


def test_database_of_the_first_release_with_tasks_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "darkroom.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DUMPS / "first.sql").read_text())
    store = Store(connect(f"sqlite:///{path}"))
    try:
        store.create()
        assert differences(store) == []
        assert store.counts() == {"completed": 1, "processing": 1, "queued": 1}
        task = store.get(FIRST)
        assert task is not None
        assert (task.lane, task.fields, task.results[0]["details"]) == (
            "images",
            {"prompt": "a cat", "seed": 7},
            {"seed": 7},
        )
    finally:
        store.close()


def test_newer_database_is_refused_and_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    store.create()
    with store.transaction() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9000'"))
    with pytest.raises(Conflict, match=rf"newer release.*version 9000.*up to {newest()}"):
        store.create()
    with store.transaction() as connection:
        assert version_of(connection) == "9000"
    settings = Settings(_env_file=None, database_url=store._engine.url.render_as_string().replace("+psycopg", ""))
    assert ["newer release" in problem for problem in database_problems(settings)] == [True]


def test_database_that_is_not_there_yet_or_is_ours_is_no_problem(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    assert database_problems(settings) == []
    assert list(tmp_path.iterdir()) == []
    store = Store(connect(settings.database))
    store.create()
    store.close()
    assert database_problems(settings) == []


@pytest.mark.parametrize("store", ["landed"], indirect=True)
def test_two_proxies_that_start_at_once_migrate_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    both = threading.Barrier(2)
    run = migrations.command.upgrade

    def counted(*given: object) -> None:
        runs.append("upgrade")
        run(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(migrations.command, "upgrade", counted)
    others = [Store(connect(store._engine.url.render_as_string().replace("+psycopg", ""))) for _ in range(2)]
    errors: list[BaseException] = []

    def start(one: Store) -> None:
        both.wait(30)
        try:
            one.create()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in others:
        one.close()
    assert (errors, runs) == ([], ["upgrade"])
    assert store.counts() == {"completed": 1, "processing": 1, "queued": 1}


def test_step_that_fails_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create_all = sa.MetaData.create_all

    def fails_at_the_end(self: sa.MetaData, bind: sa.Connection) -> None:
        create_all(self, bind)
        raise ValueError("a step with an error")

    monkeypatch.setattr(sa.MetaData, "create_all", fails_at_the_end)
    with pytest.raises(ValueError, match="a step with an error"):
        store.create()
    with store.transaction() as connection:
        assert sa.inspect(connection).get_table_names() == []
