"""Every endpoint with no key, a wrong one, another user's, its own and an admin's, on the real app without Triton."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from proxy.keys import store as table
from proxy.keys.access import ADMIN, OPEN, is_for_admins, is_open
from proxy.keys.hashing import new_secret
from proxy.keys.models import Key, Rate
from tests.keyed_app import KeyedApp, keyed_app

IMAGE_PARTS = {"/api/upscale-batch": {"files": [("files", ("a.png", b"no image"))]}}
"""What is sent to endpoints whose documentation has no example in JSON."""
OWNED = frozenset({"task_id", "session_id", "name", "key"})
SHARED_NAMES = ("/models/{name}",)
"""Names of things that belong to nobody."""


@dataclass(frozen=True, kw_only=True)
class People:
    """The keys of three people."""

    anna: tuple[Key, str]
    ben: tuple[Key, str]
    admin: tuple[Key, str]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedApp]:
    with keyed_app(tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.fixture(scope="module")
def people(app: KeyedApp) -> People:
    return People(anna=app.create("anna"), ben=app.create("ben"), admin=app.create("boss", "admin"))


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """All methods and paths, those of the documentation pages among them."""
    return [
        (method, route.path)
        for route in _flat(app.routes)
        for method in sorted(route.methods or ())
        if method not in ("HEAD", "OPTIONS")
    ]


def _flat(routes: Any) -> list[Any]:
    """The routes, also of routers that are included as they are."""
    found = []
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(route, "routes", None)
        found += _flat(inner) if inner else [route]
    return found


def sent(app: KeyedApp, people: People, method: str, path: str, example: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path and the arguments of a request for something that belongs to Anna, made for it."""
    values = {"mode": "1", "family": "none", "key": "none", "name": "none"}
    if "{task_id}" in path or path.startswith("/images/"):
        task = app.task(people.anna[0].client)
        values |= {"task_id": task.id, "name": str(task.results[0]["name"])}
    if path.startswith("/loras/"):
        values["name"] = app.lora(people.anna[0].client)
    where = path.replace(":path", "")
    for name, value in values.items():
        where = where.replace(f"{{{name}}}", value)
    if path in IMAGE_PARTS:
        return where, dict(IMAGE_PARTS[path])
    body = {**example, **({"session_id": app.session(people.anna[1])} if "session_id" in example else {})}
    return where, {"json": body} if method == "POST" else {}


def examples(app: KeyedApp, key: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The first JSON example of each operation in the documentation."""
    found = {}
    for path, operations in app.call("GET", "/openapi.json", key).json()["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            several = list(content.get("examples", {}).values())
            found[method.upper(), path] = several[0]["value"] if several else {}
    return found


def is_owned(path: str, example: dict[str, Any]) -> bool:
    names = {part.strip("{}").partition(":")[0].partition("}")[0] for part in path.split("/") if "{" in part}
    return bool((names & OWNED and path not in SHARED_NAMES) or "session_id" in example)


def test_every_endpoint_asks_for_the_right_key(app: KeyedApp, people: People) -> None:
    known, wrong, problems = examples(app, people.anna[1]), [], 0
    routes = routes_of(app.app)
    for method, path in routes:
        example = known.get((method, path.replace(":path", "")), {})
        open_to_all, for_admins = is_open(method, path), is_for_admins(path)
        owned = is_owned(path, example) and not open_to_all
        others_allowed = not (owned or for_admins)
        expected = {
            None: open_to_all,
            new_secret(): open_to_all,
            people.ben[1]: others_allowed,
            people.anna[1]: not for_admins,
            people.admin[1]: True,
        }
        for (key, allowed), who in zip(expected.items(), ("none", "wrong", "other", "own", "admin"), strict=True):
            where, how = sent(app, people, method, path, example)
            status = app.call(method, where, key, **how).status_code
            refusal = 401 if who in ("none", "wrong") else 403
            problems += 1
            if (status in (401, 403)) == allowed or (not allowed and status != refusal):
                wrong.append((method, path, who, status))
    assert wrong == []
    assert problems == 5 * len(routes) > 250


def test_endpoints_that_need_no_key_are_those_of_the_table(app: KeyedApp) -> None:
    found = {path for method, path in routes_of(app.app) if is_open(method, path)}
    pages = {"/", "/docs", "/docs/{name}", "/assets/{name}", "/sw.js", "/openapi.json"}
    assert found == {*pages, "/health", "/health/{family}", "/v1/images/files/{name}"}
    assert {"/health/*", "/assets/*"} < set(OPEN)
    assert ADMIN == ("/admin", "/admin/*", "/metrics")
    for method, path in (("POST", "/"), ("DELETE", "/health"), ("POST", "/docs/start.js"), ("GET", "//")):
        assert not is_open(method, path)


def test_a_new_route_is_protected(app: KeyedApp, people: People) -> None:
    app.app.add_api_route("/brand-new", lambda: {"ok": True}, methods=["GET", "POST"])
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        assert app.call(method, "/brand-new").status_code == 401
        assert app.call(method, "/brand-new", people.anna[1]).is_success
    assert app.call("GET", "/no-such-path").status_code == 401
    assert app.call("GET", "/no-such-path", people.anna[1]).status_code == 404


@pytest.mark.parametrize("way", ["bearer", "x-api-key", "basic", "lower case", "with another authorization"])
def test_a_key_can_be_sent_in_every_way(app: KeyedApp, people: People, way: str) -> None:
    secret = people.anna[1]
    how: dict[str, Any] = {
        "bearer": {"headers": {"Authorization": f"Bearer {secret}"}},
        "x-api-key": {"headers": {"X-API-Key": secret}},
        "basic": {"auth": httpx.BasicAuth("anybody", secret)},
        "lower case": {"headers": {"authorization": f"bearer   {secret} "}},
        "with another authorization": {"headers": {"Authorization": "Basic bWU6bm8=", "x-api-key": secret}},
    }[way]
    assert app.call("GET", "/tasks", **how).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic", "Basic Og==", "Basic !!!", "Basic /w==", "Digest x", "Bearer " + "x" * 5000],
)
def test_a_key_that_is_none_is_refused(app: KeyedApp, people: People, header: str) -> None:
    answer = app.call("GET", "/tasks", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"]
    assert answer.json()["error"]["code"] == "unauthorized"


def test_refusals_have_the_shape_of_the_contract(app: KeyedApp, people: People) -> None:
    openai = app.call("POST", "/v1/images/generations", json={}).json()
    assert (openai.keys(), openai["error"]["type"]) == ({"error"}, "authentication_error")
    assert app.call("GET", "/sdapi/v1/options").json()["error"] == "unauthorized"
    limited = app.create("limited", rate=Rate(count=1, seconds=3600))[1]
    assert app.call("GET", "/v1/models", limited).status_code == 200
    answer = app.call("GET", "/v1/models", limited)
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 3590 <= int(answer.headers["retry-after"]) <= 3600
    assert answer.headers["x-should-retry"] == "false"


def test_lists_have_what_belongs_to_the_key(app: KeyedApp, people: People) -> None:
    mine, theirs = app.task(people.anna[0].client), app.task(people.ben[0].client)
    session, lora = app.session(people.anna[1]), app.lora(people.anna[0].client)
    shared = app.lora(people.admin[0].client, "admin")

    def listed(key: str) -> tuple[set[str], set[str], set[str]]:
        tasks = {one["task_id"] for one in app.call("GET", "/tasks?limit=500", key).json()["tasks"]}
        sessions = {one["session_id"] for one in app.call("GET", "/list_sessions", key).json()["sessions"]}
        return tasks, sessions, {one["name"] for one in app.call("GET", "/loras", key).json()["loras"]}

    tasks, sessions, loras = listed(people.anna[1])
    assert (mine.id in tasks, theirs.id in tasks, session in sessions) == (True, False, True)
    assert {lora, shared} <= loras
    tasks, sessions, loras = listed(people.ben[1])
    assert (mine.id in tasks, theirs.id in tasks, session in sessions) == (False, True, False)
    assert (lora in loras, shared in loras) == (False, True)
    tasks, sessions, loras = listed(people.admin[1])
    assert {mine.id, theirs.id} <= tasks
    assert session in sessions
    assert {lora, shared} <= loras


def test_a_shared_lora_can_be_deleted_by_admins_only(app: KeyedApp, people: People) -> None:
    shared = app.lora(people.admin[0].client, "admin")
    assert app.call("DELETE", f"/loras/{shared}", people.ben[1]).status_code == 403
    assert app.call("DELETE", f"/loras/{shared}", people.admin[1]).status_code == 200


def test_the_owner_cancels_a_task(app: KeyedApp, people: People) -> None:
    task = app.task(people.anna[0].client, completed=False)
    assert app.call("DELETE", f"/tasks/{task.id}", people.ben[1]).status_code == 403
    assert app.call("DELETE", f"/tasks/{task.id}", people.anna[1]).json()["status"] == "cancelled"


def test_a_key_may_not_ask_for_more_than_its_priority(app: KeyedApp) -> None:
    secret = app.create("slow", priority="low")[1]
    fields = {"operation": "train", "session_id": app.session(secret)}
    answer = app.call("POST", "/tasks", secret, json={**fields, "priority": "normal"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "priority")
    assert app.call("POST", "/tasks", secret, json={**fields, "priority": "low"}).json()["error"]["code"] == "no_images"


def test_admins_make_and_revoke_keys(app: KeyedApp, people: People) -> None:
    wanted = {"name": "carl", "rate": "5/min", "images_per_day": 7, "concurrent": 2, "priority": "low"}
    made = app.call("POST", "/admin/keys", people.admin[1], json=wanted)
    assert made.status_code == 201
    view = made.json()
    assert {name: view[name] for name in wanted} == wanted
    assert app.call("GET", "/tasks", view["key"]).status_code == 200
    listed = app.call("GET", "/admin/keys", people.admin[1])
    assert view["id"] in {one["id"] for one in listed.json()["keys"]}
    assert view["key"] not in listed.text
    assert app.call("POST", "/admin/keys", people.admin[1], json=wanted).status_code == 409
    assert app.call("DELETE", "/admin/keys/carl", people.admin[1]).json()["revoked_at"]
    assert app.call("GET", "/tasks", view["key"]).status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "x", "rate": "60"}, "rate"),
        ({"name": "x", "rate": "0/min"}, "rate"),
        ({"name": "x", "rate": "99999/min"}, "rate"),
        ({"name": "x", "images_per_day": 0}, "images_per_day"),
        ({"name": "x", "concurrent": "many"}, "concurrent"),
        ({"name": "x", "role": "king"}, "role"),
        ({"name": "x", "priority": "urgent"}, "priority"),
    ],
)
def test_a_key_out_of_range_is_refused(app: KeyedApp, people: People, body: dict[str, Any], param: str) -> None:
    answer = app.call("POST", "/admin/keys", people.admin[1], json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_the_last_key_does_not_open_the_service(app: KeyedApp, people: People) -> None:
    """The last test of the file: it revokes all keys."""
    for key in table.keys(app.store):
        table.revoke(app.store, key.id)
    app.load()
    assert app.call("GET", "/tasks").status_code == 401
    assert app.call("GET", "/tasks", people.admin[1]).status_code == 401
    table.open_again(app.store)
    app.load()
    assert app.call("GET", "/tasks").status_code == 200
