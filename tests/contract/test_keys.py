"""Keys on the real service: limits of images, what belongs to whom, and the clients' errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from darkroom_client import Client, Forbidden, RateLimited, Unauthorized

from proxy.keys import store as table
from proxy.keys.models import Limits, NewKey
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.contract.tasks import QUICK, finished
from tests.pictures import encoded, photo
from tests.service import RunningService

IMAGE = {name: value for name, value in QUICK.items() if name != "operation"}


def command(service: RunningService, *words: str) -> str:
    """Run `darkroom keys`; returns its standard output."""
    program = Path(sys.executable).with_name("darkroom")
    done = subprocess.run(
        [str(program), "keys", *words],
        env={**os.environ, "DATABASE_URL": database_of(service)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def database_of(service: RunningService) -> str:
    return f"sqlite:///{service.folder / 'state' / 'data' / 'darkroom.db'}"


@pytest.fixture(scope="module")
def admin(service: RunningService) -> Iterator[str]:
    """The key of an admin, which closes the service. At the end it is open again, for the tests of other files."""
    assert httpx.get(f"{service.url}/tasks").status_code == 200
    secret = command(service, "create", "--name", "boss", "--role", "admin").strip()
    assert httpx.get(f"{service.url}/tasks").status_code == 401, "the command returns when the key counts"
    yield secret
    for line in command(service, "list", "--json").splitlines():
        command(service, "revoke", line.split('"id": "')[1][:12])
    command(service, "open", "--yes")
    assert httpx.get(f"{service.url}/tasks").status_code == 200


@pytest.fixture
def store(service: RunningService) -> Iterator[Store]:
    made = Store(connect(database_of(service)))
    yield made
    made.close()


def new_key(admin: str, service: RunningService, name: str, **limits: Any) -> httpx.Client:
    """A client with a new key."""
    made = httpx.post(f"{service.url}/admin/keys", json={"name": name, **limits}, headers={"x-api-key": admin})
    assert made.status_code == 201, made.text
    return httpx.Client(base_url=service.url, timeout=120, headers={"Authorization": f"Bearer {made.json()['key']}"})


def test_images_of_direct_requests_are_never_more_than_the_key_may_make(admin: str, service: RunningService) -> None:
    with new_key(admin, service, "direct", images_per_day=3) as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post("/generate", json=IMAGE), range(8)))
        assert sorted(one.status_code for one in answers) == [200] * 3 + [429] * 5
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limited"
        stream = http.post("/generate", json=IMAGE, headers={"Accept": "text/event-stream"})
        assert stream.status_code == 429, "before the stream begins"
        assert http.post("/png-info", files={"file": ("a.png", encoded(photo(width=8, height=8)))}).status_code == 200


def test_images_of_a_batch_that_fail_are_given_back(admin: str, service: RunningService) -> None:
    good, bad = ("a.png", encoded(photo(width=16, height=16))), ("b.png", b"no image")
    fields = {"data": {"model": "animevideov3"}, "headers": {"Accept": "application/json"}}
    with new_key(admin, service, "batch", images_per_day=2) as http:

        def results(*files: tuple[str, bytes]) -> list[bool] | int:
            answer = http.post("/api/upscale-batch", files=[("files", file) for file in files], **fields)
            return [one["success"] for one in answer.json()["results"]] if answer.is_success else answer.status_code

        assert results(good, bad) == [True, False]
        assert results(good, good) == 429
        assert results(good) == [True]
        assert results(good) == 429


def test_tasks_belong_to_their_key(admin: str, service: RunningService) -> None:
    anna, ben = new_key(admin, service, "anna", images_per_day=2), new_key(admin, service, "ben")
    boss = httpx.Client(base_url=service.url, headers={"x-api-key": admin})
    with anna, ben, boss:
        made = anna.post("/tasks", json={**QUICK, "num_images": 2})
        assert made.status_code == 202
        task = finished(anna, made.json()["task_id"])
        assert anna.post("/tasks", json=QUICK).status_code == 429
        (url, _) = task["result_urls"]
        for path in (f"/tasks/{task['task_id']}", f"/tasks/{task['task_id']}/events", url):
            assert ben.get(path).status_code == 403
            assert anna.get(path).status_code == boss.get(path).status_code == 200
        assert httpx.get(url).status_code == 401
        assert ben.get("/tasks").json() == {"tasks": []}


def test_clients_raise_errors_of_their_own(admin: str, service: RunningService) -> None:
    with Client(service.url, api_key="dr_wrong", retries=0) as nobody, pytest.raises(Unauthorized):
        nobody.tasks()
    with new_key(admin, service, "carl", concurrent=1) as http, new_key(admin, service, "dora") as other:
        secret = http.headers["Authorization"].removeprefix("Bearer ")
        with Client(service.url, api_key=secret, retries=0) as carl:
            assert carl.generate(IMAGE["prompt"], steps=1, width=64, height=64, seed=1).images
            task = other.post("/tasks", json=QUICK).json()["task_id"]
            with pytest.raises(Forbidden):
                carl.task(task)
            waiting = carl.submit("generate", **{**IMAGE, "steps": 100}).id
            with pytest.raises(RateLimited, match="1 requests and tasks at a time"):
                carl.submit("generate", **IMAGE)
            carl.cancel(waiting)


def test_stream_of_a_revoked_key_ends_with_an_error(admin: str, service: RunningService, store: Store) -> None:
    key, secret = table.create(store, NewKey(name="streaming", limits=Limits()))
    headers = {"x-api-key": secret, "accept": "text/event-stream"}
    long = {**IMAGE, "steps": 100, "width": 512, "height": 512}
    with httpx.Client(base_url=service.url, headers=headers, timeout=120) as http:
        while http.get("/edit-modes").status_code != 200:
            time.sleep(0.02)
        with http.stream("POST", "/generate", json=long) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith("event:")) == "event: progress"
            table.revoke(store, key.id)
            rest = list(lines)
    assert [line for line in rest if line.startswith("event:")][-1] == "event: error"
    last = json.loads([line for line in rest if line.startswith("data:")][-1].removeprefix("data:"))
    assert (last["status"], last["error"]["code"]) == (401, "unauthorized")


def test_a_revoked_key_stops_within_a_second(admin: str, service: RunningService, store: Store) -> None:
    key, secret = table.create(store, NewKey(name="short-lived", limits=Limits()))
    with httpx.Client(base_url=service.url, headers={"x-api-key": secret}) as http:
        while http.get("/edit-modes").status_code != 200:
            time.sleep(0.02)
        table.revoke(store, key.id)
        revoked = asked = time.monotonic()
        while http.get("/edit-modes").status_code == 200:
            asked = time.monotonic()
        assert asked - revoked < 1, "the last request that it let in was sent by then"
