"""A service without keys: everything is open, an id is a capability, and stopping wants the creator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from fastapi import Request

from proxy.keys import store as table
from proxy.keys.middleware import Keys, client_without_key
from proxy.keys.models import NewKey
from proxy.tasks.models import Task
from proxy.tasks.store import Store
from tests.keyed_app import KeyedApp, keyed_app

HERE, THERE = "10.0.0.1", "10.9.9.9"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedApp]:
    with keyed_app(tmp_path_factory.mktemp("open"), host="127.0.0.1") as running:
        yield running


def waiting(app: KeyedApp, client: str = f"address:{HERE}") -> Task:
    return app.task(client, source=HERE, completed=False)


def test_without_keys_an_id_is_a_capability(app: KeyedApp) -> None:
    task, session = app.task(f"address:{HERE}"), app.session(None)
    for path in (f"/tasks/{task.id}", f"/download/{task.id}", f"/images/{task.results[0]['name']}"):
        assert app.call("GET", path, address=THERE).status_code == 200
    status = app.call("POST", "/train_status", json={"session_id": session}, address=THERE)
    assert status.json()["status"] == "none"
    assert app.call("GET", "/tasks", "any key at all").status_code == 200


def test_without_keys_a_task_is_stopped_from_the_address_of_its_creator(app: KeyedApp) -> None:
    task = waiting(app)
    refused = app.call("DELETE", f"/tasks/{task.id}", address=THERE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert app.call("DELETE", f"/tasks/{task.id}", address=HERE).json()["status"] == "cancelled"


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_without_keys_a_task_is_stopped_with_the_credentials_of_its_creator(app: KeyedApp, header: str) -> None:
    mine = {header: "as it came"}
    raw = [(header.lower().encode(), b"as it came")]
    task = waiting(app, client_without_key(Request({"type": "http", "headers": raw})))
    assert app.call("DELETE", f"/tasks/{task.id}", address=THERE, headers={header: "other"}).status_code == 403
    assert app.call("DELETE", f"/tasks/{task.id}", address=THERE, headers=mine).json()["status"] == "cancelled"


@pytest.mark.parametrize("way", ["pause", "resume"])
def test_without_keys_others_do_not_pause(app: KeyedApp, way: str) -> None:
    task = waiting(app)
    assert app.call("POST", f"/tasks/{task.id}/{way}", address=THERE).status_code == 403
    assert app.call("POST", f"/tasks/{task.id}/{way}", address=HERE).status_code in (200, 409)


def test_without_keys_a_session_is_deleted_by_its_creator(app: KeyedApp) -> None:
    session = {"session_id": app.session(None)}
    assert app.call("POST", "/delete_session", json=session, address=THERE).status_code == 403
    assert app.call("POST", "/delete_session", json=session).status_code == 200
    by_hand = app.settings.session_dir / "session_mine"
    by_hand.mkdir()
    assert app.call("POST", "/delete_session", json={"session_id": "mine"}, address=THERE).status_code == 200


def test_without_keys_nobody_makes_one_from_afar(app: KeyedApp) -> None:
    answer = app.call("POST", "/admin/keys", json={"name": "me", "role": "admin"}, address="127.0.0.1")
    assert answer.status_code == 403
    assert "darkroom keys create" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("host", "closed", "warned"),
    [("0.0.0.0", False, True), ("::", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)],
)
def test_the_start_warns_of_an_open_service(
    store: Store, caplog: pytest.LogCaptureFixture, host: str, closed: bool, warned: bool
) -> None:
    if closed:
        table.create(store, NewKey(name="one"))

    async def start() -> None:
        keys = Keys(store)
        await keys.start(host)
        await keys.stop()

    with caplog.at_level(logging.WARNING, "proxy.keys"):
        asyncio.run(start())
    assert [f"listens on {host} and has no keys" in record.getMessage() for record in caplog.records] == [True] * warned
