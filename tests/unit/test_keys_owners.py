"""LoRA files that requests name belong to their key, however they are named; and what keys are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from click.testing import CliRunner

from darkroom.errors import Conflict, Forbidden, InvalidInput
from darkroom.request.loras import LoraChoice
from darkroom.settings import Settings
from proxy.callers import CALLER, Caller
from proxy.keys.cli import keys as command
from proxy.keys.hashing import digest_of, new_secret
from proxy.keys.models import Limits, NewKey, Rate
from proxy.loras.files import LoraFiles
from proxy.sessions.store import SessionStore

ANNA = Caller(key="anna", client="key:anna", role="user")
BEN = Caller(key="ben", client="key:ben", role="user")


@contextmanager
def asked_by(caller: Caller) -> Iterator[None]:
    token = CALLER.set(caller)
    try:
        yield
    finally:
        CALLER.reset(token)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path)


@pytest.mark.parametrize("how", ["name", "digest", "session_id"])
def test_a_request_may_not_use_the_lora_of_another_key(settings: Settings, how: str) -> None:
    files, sessions = LoraFiles(settings), SessionStore(settings.session_dir)
    with asked_by(ANNA):
        digest = files.digest_of(files.library.add("style", BytesIO(b"some tensors")).path)
        session = str(sessions.create())
        sessions.add_lora(session, b"others")
    choice = LoraChoice(**{how: {"name": "style", "digest": digest, "session_id": session}[how]})
    with asked_by(BEN), pytest.raises(Forbidden, match="belongs to another key"):
        files._resolved([choice], ["loras[0]"])
    for caller in (ANNA, Caller(key="boss", role="admin"), Caller()):
        with asked_by(caller):
            assert files._resolved([choice], ["loras[0]"])[0].digest


def test_a_lora_that_two_keys_have_sent_belongs_to_both(settings: Settings) -> None:
    library = LoraFiles(settings).library
    for caller in (ANNA, BEN):
        with asked_by(caller):
            library.add("same", BytesIO(b"same"))
    with asked_by(ANNA):
        library.delete("same")
        with pytest.raises(Forbidden):
            library.find("same")
    with asked_by(BEN):
        library.delete("same")
        assert library.all_files() == []


def test_files_that_were_put_there_by_hand_are_for_all(settings: Settings) -> None:
    folder = settings.lora_dir / "mine"
    folder.mkdir(parents=True)
    (folder / "ink.safetensors").write_bytes(b"x")
    library = LoraFiles(settings).library
    with asked_by(ANNA):
        assert library.find("ink").name == "mine/ink"
        with pytest.raises(Forbidden):
            library.delete("ink")


def test_a_file_for_all_stays_for_all(settings: Settings) -> None:
    settings.lora_dir.mkdir(parents=True)
    (settings.lora_dir / "ink.safetensors").write_bytes(b"x")
    library = LoraFiles(settings).library
    with asked_by(ANNA):
        library.add("ink", BytesIO(b"x"))
    with asked_by(BEN):
        assert library.find("ink")


def test_an_owner_of_a_file_that_was_removed_by_hand_does_not_get_the_next_one(settings: Settings) -> None:
    library = LoraFiles(settings).library
    with asked_by(ANNA):
        library.add("ink", BytesIO(b"x")).path.unlink()
    with asked_by(BEN):
        library.add("ink", BytesIO(b"y"))
    with asked_by(ANNA):
        with pytest.raises(Forbidden):
            library.find("ink")
        with pytest.raises(Conflict):
            library.add("ink", BytesIO(b"z"))
        with pytest.raises(Forbidden):
            library.find("ink")


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("60/min", 60, 60), ("1/s", 1, 1), (" 10 / Hour ", 10, 3600), ("10000/day", 10_000, 86_400), ("5/sec", 5, 1)],
)
def test_a_rate_is_read(text: str, count: int, seconds: int) -> None:
    rate = Rate.parse(text)
    assert (rate.count, rate.seconds) == (count, seconds)
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize("text", ["", "60", "60/", "/min", "0/min", "10001/min", "-1/min", "6.5/min", "60/year"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Rate.parse(text)
    assert caught.value.param == "rate"


@pytest.mark.parametrize("name", ["", " a", "a\nb", "x" * 101])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        NewKey(name=name)


@pytest.mark.parametrize(
    ("own", "asked", "given"),
    [
        (None, None, "normal"),
        (None, "high", "high"),
        ("low", None, "low"),
        ("low", "high", "low"),
        ("high", None, "high"),
        ("high", "low", "low"),
    ],
)
def test_priority_is_never_above_that_of_the_key(own: str | None, asked: str | None, given: str) -> None:
    assert Limits(priority=own).priority_of(asked) == given


def test_secrets_are_random_and_kept_as_hashes() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(secret) for secret in made} == {46}, "43 characters have 256 bits"
    assert len({digest_of(secret) for secret in made}) == 100


def test_commands_make_list_and_revoke_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "keys.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{database}")
    run = CliRunner().invoke
    limits = ["--rate", "60/min", "--images-per-day", "9", "--concurrent", "2", "--priority", "low"]
    made = run(command, ["create", "--name", "anna", *limits])
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    assert secret.startswith("dr_")
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert digest_of(secret).encode() in stored
    assert secret.encode() not in stored
    (line,) = run(command, ["list", "--json"]).stdout.splitlines()
    key = json.loads(line)
    assert (key["name"], key["role"], key["rate"], key["priority"]) == ("anna", "user", "60/min", "low")
    assert "anna" in run(command, ["list"]).stdout
    assert key["id"] in run(command, ["list"]).stdout, "whole, in 80 columns, too"
    assert "There is a key named 'anna'" in run(command, ["create", "--name", "anna"]).output
    assert "rate must be" in run(command, ["create", "--name", "x", "--rate", "fast"]).output
    assert "images_per_day must be from 1" in run(command, ["create", "--name", "x", "--images-per-day", "0"]).output
    assert run(command, ["open", "--yes"]).exit_code == 1, "a key is in use"
    assert run(command, ["revoke", key["id"]]).exit_code == 0
    assert "There is no key 'nobody'" in run(command, ["revoke", "nobody"]).output
    assert json.loads(run(command, ["list", "--json"]).stdout)["revoked_at"]
    assert run(command, ["create", "--name", "anna"]).exit_code == 0, "the name is free again"
    assert run(command, ["revoke", "anna"]).exit_code == 0
    assert run(command, ["open", "--yes"]).exit_code == 0
    assert "no keys" in run(command, ["list"]).stdout
    monkeypatch.setenv("DATABASE_URL", "mysql://secret@host/name")
    refused = run(command, ["list"])
    assert (refused.exit_code, "DATABASE_URL" in refused.output, "secret" in refused.output) == (1, True, False)
