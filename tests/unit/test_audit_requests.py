"""Which requests have a row in the audit trail, what it says, and that it is there before the answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from darkroom.errors import NotReady
from darkroom.settings import Settings
from proxy.audit import chain
from proxy.audit.entries import FIELDS
from proxy.audit.trail import Trail
from proxy.audit.words import Words, read_salt
from tests.audited_app import DIGEST, KEY, MADE, Service
from tests.task_store import add, draft

Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    made: list[Service] = []

    def begin(**settings: Any) -> Service:
        made.append(Service(tmp_path, **settings))
        return made[-1]

    yield begin
    for one in made:
        one.store.close()


def test_row_of_an_answer_is_there_before_its_first_byte(start: Start) -> None:
    service = start()
    answer = service.ask("POST", "/things/vase", authorization=f"Bearer {KEY}", x_request_id="abc")
    assert (answer.status, answer.body, answer.rows[0]) == (200, MADE, 1)
    (row,) = service.rows()
    assert {name: row[name] for name in row if name not in ("at", "seq")} == {
        "event": "request",
        "request_id": "abc",
        "key": "k1",
        "name": "Ann",
        "address": "203.0.113.9",
        "surface": "native",
        "method": "POST",
        "path": "/things/{name}",
        "target": {"name": "vase"},
        "operation": "generate",
        "model": "painter",
        "prompts": {"prompt": "a cat"},
        "inputs": [hashlib.sha256(b"in").hexdigest()],
        "results": [DIGEST],
        "status": 200,
        "outcome": "done",
    }
    assert set(row) <= {*FIELDS, "seq", "at"}


def test_no_secret_is_in_any_row(start: Start) -> None:
    service = start(audit_user_headers="X-User", forwarded_allow_ips="*")
    credentials = {"authorization": f"Bearer {KEY}", "x_api_key": KEY, "cookie": f"key={KEY}", "x_user": "ann"}
    for method, path in (("POST", f"/things/x?key={KEY}"), ("POST", "/stream"), ("POST", f"/unknown/{KEY}")):
        service.ask(method, path, **credentials)
    assert len(service.rows()) == 4
    with service.store.transaction() as connection:
        assert all(KEY not in row.content for row in chain.rows(connection))


def test_what_only_reads_has_no_row(start: Start) -> None:
    service = start()
    for method, path in (("GET", "/things/a"), ("POST", "/png-info"), ("GET", "/unknown"), ("OPTIONS", "/things/a")):
        service.ask(method, path)
    assert service.rows() == []
    service.ask("GET", "/create_session")
    assert [row["path"] for row in service.rows()] == ["/create_session"]


def test_refusals_have_rows_with_their_reason(start: Start) -> None:
    service = start()
    assert service.ask("POST", "/blocked").status == 400
    assert service.ask("GET", "/things/private").status == 403
    assert service.ask("POST", "/broken").status == 500
    assert service.ask("DELETE", "/nothing").status == 404
    blocked, private, broken, unknown = service.rows()
    assert (blocked["outcome"], blocked["rules"], blocked["policy_version"]) == ("moderation_blocked", ["r7"], "v2")
    assert (private["outcome"], private["method"], private["target"]) == ("forbidden", "GET", {"name": "private"})
    assert (broken["outcome"], broken["status"]) == ("internal_error", 500)
    assert (unknown["outcome"], "path" in unknown) == ("not_found", False)


def test_stream_has_a_row_before_its_first_byte_and_one_before_its_last_event(start: Start) -> None:
    service = start()
    answer = service.ask("POST", "/stream")
    assert answer.status == 200
    assert answer.rows[0] == 1
    assert answer.events["image"] == 2
    accepted, ended = service.rows()
    assert (accepted["event"], accepted["outcome"], "results" in accepted) == ("request", "accepted", False)
    assert (ended["event"], ended["outcome"], ended["results"]) == ("result", "done", [DIGEST])
    assert ended["request_id"] == accepted["request_id"]


def test_stream_that_fails_has_its_error_in_the_second_row(start: Start) -> None:
    service = start()
    answer = service.ask("POST", "/stream?fails=true")
    assert answer.events["error"] == 2
    assert [row["outcome"] for row in service.rows()] == ["accepted", "invalid_input"]


def test_stream_that_the_client_leaves_has_a_second_row(start: Start) -> None:
    service = start()
    service.ask("POST", "/stream", leave="progress")
    assert [row["event"] for row in service.rows()] == ["request", "result"]


@pytest.mark.parametrize("path", ["/things/a", "/stream"])
def test_request_whose_row_cannot_be_written_is_answered_with_503(start: Start, path: str) -> None:
    service = start()
    with service.store.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE darkroom_audit RENAME TO elsewhere"))
    service.count = lambda: 0  # type: ignore[method-assign]
    answer = service.ask("POST", path)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "not_ready")
    assert MADE not in answer.body
    assert service.ask("GET", "/things/a").status == 200


def test_hashes_in_place_of_prompts_need_the_salt(start: Start, tmp_path: Path) -> None:
    service = start(audit="hash")
    service.ask("POST", "/things/a")
    service.ask("POST", "/things/b")
    one, other = (row["prompts"]["prompt"] for row in service.rows())
    assert one == other
    assert one.startswith("hmac-sha256:")
    assert hashlib.sha256(b"a cat").hexdigest() not in one
    assert Words(read_salt(tmp_path / "audit.salt")).prompts({"prompt": "a cat"}) == {"prompt": one}
    assert (tmp_path / "audit.salt").stat().st_mode & 0o077 == 0
    assert Words(read_salt(tmp_path / "other" / "audit.salt")).prompts({"prompt": "a cat"}) != {"prompt": one}
    (tmp_path / "audit.salt").write_text("")
    with pytest.raises(OSError, match=r"audit\.salt must have 64"):
        read_salt(tmp_path / "audit.salt")


@pytest.mark.parametrize(
    ("trusted", "kept"),
    [("", False), ("192.0.2.0/24", True), ("192.0.2.1", True), ("198.51.100.1", False), ("*", True)],
)
def test_headers_of_users_are_kept_only_of_trusted_proxies(start: Start, trusted: str, kept: bool) -> None:
    service = start(audit_user_headers="X-User-Email, X-User-Id", forwarded_allow_ips=trusted)
    service.ask("POST", "/things/a", x_user_email="ann@example.org", x_forwarded_for="203.0.113.5")
    (row,) = service.rows()
    assert row.get("headers") == ({"X-User-Email": "ann@example.org"} if kept else None)


def test_setting_refuses_headers_that_carry_secrets() -> None:
    for name in ("Authorization", "x-api-key", "Cookie"):
        with pytest.raises(ValidationError, match="must not name a header that carries a secret"):
            Settings(_env_file=None, audit_user_headers=name)


def test_tasks_have_a_row_when_they_are_accepted_and_one_when_they_end(start: Start) -> None:
    service = start()
    first, second = add(service.store, draft(), draft(client="b"))
    service.store.begin(first.id, "run")
    service.store.end(first.id, "run", "completed", {"results": []})
    assert not service.store.end(first.id, None, "cancelled"), "it has ended, so there is no further row"
    service.store.end(second.id, None, "failed", {"error": {"code": "network_error", "message": "m", "param": None}})
    rows = [(row["event"], row["task"], row.get("outcome")) for row in service.rows()]
    assert rows == [
        ("task", first.id, "accepted"),
        ("task", second.id, "accepted"),
        ("task_end", first.id, "completed"),
        ("task_end", second.id, "network_error"),
    ]
    assert service.rows()[0]["prompts"] == {"prompt": "a cat"}


def test_task_without_a_row_is_not_accepted(start: Start) -> None:
    service = start()
    with service.store.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE darkroom_audit RENAME TO elsewhere"))
    with pytest.raises(Exception, match="database of tasks"):
        add(service.store, draft())
    assert service.store.counts() == {}


def test_stream_whose_second_row_cannot_be_written_has_no_result(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service, write = start(), Trail.write

    async def fails_at_the_end(trail: Trail, entry: chain.Entry) -> None:
        if entry["event"] == "result":
            raise NotReady("The audit trail cannot be written.")
        await write(trail, entry)

    monkeypatch.setattr(Trail, "write", fails_at_the_end)
    answer = service.ask("POST", "/stream")
    assert list(answer.events) == ["progress", "error"]
    assert b"not_ready" in answer.body


def test_requests_are_refused_before_they_cost_anything_while_the_trail_is_broken(start: Start) -> None:
    service = start()

    async def scenario() -> int:
        async with service.app() as app:
            app.state.trail._broken_until = float("inf")
            return (await service._ask(app, "POST", "/things/a", {}, "")).status

    assert asyncio.run(scenario()) == 503
    assert service.rows() == []
