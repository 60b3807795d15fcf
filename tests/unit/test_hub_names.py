"""Names of checkpoints: folders, hub ids, revisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.checkpoints.hub import HubId, parse
from tests.hub import refusal


def test_hub_ids() -> None:
    assert parse("runwayml/stable-diffusion-v1-5") == HubId(repository="runwayml/stable-diffusion-v1-5")
    assert parse("a/b.c_d@refs/pr/1") == HubId(repository="a/b.c_d", revision="refs/pr/1")


@pytest.mark.parametrize(
    "name", ["./missing", "../missing", "/x/y", "~/nowhere/at-all", "missing", "a/b/c", "a/", "/", "", "a\\b", "a/b/"]
)
def test_hub_id_is_not_a_missing_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name in ("/", ""):  # these are folders
        assert isinstance(parse(name), Path)
        return
    assert refusal(tmp_path / "cache", name).startswith(f"There is no folder {name!r}, and it is no hub id")
    assert not (tmp_path / "cache").exists()


def test_hub_id_is_not_a_missing_folder_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "There is no folder 'checkpoints/demo'" in refusal(tmp_path, "checkpoints/demo")
    assert parse("checkpoints/demo@main") == HubId(repository="checkpoints/demo")


@pytest.mark.parametrize(
    "name", ["a b/c", "a/b?c", "a/..", "a--b/c", "-a/b", "a/b.git", "ä/b", "a/b%2fc", "a/" + "b" * 99]
)
def test_hub_ids_of_a_wrong_form_are_refused(name: str, tmp_path: Path) -> None:
    assert f"{name!r} is no hub id" in refusal(tmp_path, name)


@pytest.mark.parametrize("revision", ["", "a b", "-x", "../x", "a..b", "x" * 201, "a?b"])
def test_hub_revisions_of_a_wrong_form_are_refused(revision: str, tmp_path: Path) -> None:
    assert f"got {revision!r}." in refusal(tmp_path, f"a/b@{revision}")


def test_hub_name_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert "is a file" in refusal(tmp_path, str(path))
