"""Access to checkpoints on the hub: tokens, gated and missing repositories, a hub that does not work."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from darkroom.settings import Settings
from exporters.checkpoints import hub as hub_module
from exporters.checkpoints.hub import resolve
from exporters.errors import ExportError
from tests.hub import REPOSITORY, TOKEN, Hub, fetched, refusal


def test_hub_token_is_sent_to_the_hub_only(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    hub.token, hub.gated = TOKEN, True
    lines: list[str] = []
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    fetched(tmp_path, report=lines.append)
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    sentence = refusal(tmp_path / "again")

    given = {asked.path.startswith("/lfs/"): asked.authorization for asked in hub.asked}
    assert given == {False: f"Bearer {TOKEN}x", True: None}
    written = "".join(path.read_text("latin1") for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in "".join([*lines, sentence, caplog.text, *capfd.readouterr(), written])


@pytest.mark.parametrize(
    ("gated", "given", "words"),
    [
        (True, None, ["is gated, and no HF_TOKEN is set", "accept its licence at http", "set HF_TOKEN"]),
        (True, "hf_other", ["is gated, and the account of your HF_TOKEN has no access", "accept its licence"]),
        (False, None, [f"There is no repository {REPOSITORY}", "or it is private: then set HF_TOKEN"]),
        (False, "hf_other", ["does not accept your HF_TOKEN (401)"]),
    ],
)
def test_hub_access_denied(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool, given: str | None, words: list[str]
) -> None:
    hub.token, hub.gated = TOKEN, gated
    if given:
        monkeypatch.setenv("HF_TOKEN", given)
    sentence = refusal(tmp_path)
    assert all(word in sentence for word in words), sentence
    assert given is None or given not in sentence


@pytest.mark.parametrize("token", [None, TOKEN])
def test_hub_repository_is_missing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    sentence = refusal(tmp_path, "someone/else")
    assert sentence.startswith(f"There is no repository someone/else at {hub.url}, or ")
    assert sentence.endswith("; nor is there such a folder.")


def test_hub_revision_is_missing(hub: Hub, tmp_path: Path) -> None:
    sentence = refusal(tmp_path, f"{REPOSITORY}@v9")
    assert sentence == f"{REPOSITORY} has no branch, tag or commit 'v9' at {hub.url}."


def test_hub_repository_without_matching_files(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds none of the files transformer/\*: another kind of model\?"):
        resolve(REPOSITORY, patterns=["transformer/*"], cache=tmp_path)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_hub_answers_with_a_server_error(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    assert f"(it answers {status})" in refusal(tmp_path)


def test_hub_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    sentence = refusal(tmp_path)
    assert all(word in sentence for word in ("Connection refused", "HF_ENDPOINT", "without a network give a folder"))


def test_hub_url_of_another_server(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "listing", lambda self, commit: {"id": REPOSITORY, "sha": None, "siblings": []})
    assert "does not answer as a hub does" in refusal(tmp_path)
    monkeypatch.setattr(Hub, "listing", lambda self, commit: ["hello"])
    assert "does not answer as a hub does" in refusal(tmp_path)


@pytest.mark.parametrize("endpoint", ["hub.example", "ftp://hub.example", "http://:80"])
def test_hub_endpoint_has_to_be_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert refusal(tmp_path) == f"HF_ENDPOINT must be a URL such as https://huggingface.co; got {endpoint!r}."


def test_hub_token_and_endpoint_come_from_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("HF_TOKEN=hf_of_the_file\nHF_ENDPOINT=http://127.0.0.1:1/\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    found = hub_module._Hub.from_env()
    assert (found.endpoint, found.token) == ("http://127.0.0.1:1", "hf_of_the_file")
    assert "hf_of_the_file" not in repr(Settings())


def test_hub_repr_hides_the_token() -> None:
    assert TOKEN not in repr(hub_module._Hub(endpoint="https://h", token=TOKEN))
