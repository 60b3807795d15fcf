"""Checkpoints by name: the real huggingface_hub and the real transfer, against a hub on loopback."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from benchmarks.processes import free_port
from exporters.checkpoints import hub_transfer
from exporters.checkpoints.hub import select
from exporters.checkpoints.hub_transfer import RemoteFile
from tests.hub import COMMIT, FILES, REPOSITORY, UNET, WANTED, WEIGHTS, Hub, fetched, refusal


def test_hub_takes_a_folder_as_it_is(tmp_path: Path) -> None:
    assert fetched(tmp_path / "cache", str(tmp_path)) == tmp_path
    assert not (tmp_path / "cache").exists()


def test_hub_fetches_only_needed_files(hub: Hub, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = fetched(tmp_path, report=lines.append)

    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert found == set(WANTED)
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert folder == tmp_path / "hub" / "someone--little-diffusion" / COMMIT
    assert len(lines) == 1
    assert "256.1 kB to download" in lines[0]


def test_hub_fetches_nothing_in_a_second_run(hub: Hub, tmp_path: Path) -> None:
    folder = fetched(tmp_path)
    hub.asked.clear()

    assert fetched(tmp_path) == folder
    assert [asked.path for asked in hub.asked] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_hub_that_is_unreachable_needs_a_complete_copy(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetched(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    lines: list[str] = []

    assert fetched(tmp_path, report=lines.append) == folder
    assert "cannot be reached" in lines[0]
    (folder / UNET).unlink()
    monkeypatch.setattr(hub_transfer, "ATTEMPTS", 1)
    assert "cannot be had" in refusal(tmp_path)


def test_hub_revisions_have_their_own_folders(hub: Hub, tmp_path: Path) -> None:
    other = "f" * 40
    hub.revisions["refs/pr/1"] = other
    hub.revisions[other] = other

    assert fetched(tmp_path, f"{REPOSITORY}@refs/pr/1").name == other
    assert fetched(tmp_path, f"{REPOSITORY}@{COMMIT}").name == COMMIT


def test_hub_of_the_tests_works_with_huggingface_hub(hub: Hub, tmp_path: Path) -> None:
    path = huggingface_hub.hf_hub_download(REPOSITORY, UNET, endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS


def chosen(*names: str, patterns: tuple[str, ...] = ("*",)) -> set[str]:
    return {file.name for file in select([RemoteFile(name=name, size=1) for name in names], patterns)}


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("model.safetensors", "pytorch_model.bin"), {"model.safetensors"}),
        (("model.fp16.safetensors", "pytorch_model.bin"), {"model.fp16.safetensors"}),
        (("pytorch_model.fp16.bin", "pytorch_model.bin"), {"pytorch_model.bin"}),
        (("m.non_ema.safetensors", "m.fp16.safetensors"), {"m.fp16.safetensors"}),
        (("m.safetensors", "m.ckpt", "m.onnx", "m.h5", "config.json"), {"m.safetensors", "config.json"}),
        (
            ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json",
             "m.fp16-00001-of-00002.safetensors", "m-00001-of-00002.fp16.safetensors",
             "m.safetensors.index.fp16.json", "m-00001-of-00002.bin", "m.bin.index.json"),
            {"m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json"},
        ),
        (("a/m.bin", "b/m.safetensors", "b/m.bin"), {"a/m.bin", "b/m.safetensors"}),
    ],
)  # fmt: skip
def test_hub_selects_one_form_of_weights_per_folder(names: tuple[str, ...], kept: set[str]) -> None:
    assert chosen(*names) == kept


def test_hub_ignores_unwanted_files_in_the_selection() -> None:
    assert chosen("unet/a.bin", "unet/a.safetensors", patterns=("unet/*.bin",)) == {"unet/a.bin"}
