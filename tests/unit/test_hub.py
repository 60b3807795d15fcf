"""Checkpoints by name: the real huggingface_hub and the real transfer, against a hub on loopback."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest

from benchmarks.processes import free_port
from darkroom.settings import Settings
from exporters.checkpoints import hub as hub_module
from exporters.checkpoints import hub_transfer
from exporters.checkpoints.hub import HubId, parse, resolve, select
from exporters.checkpoints.hub_transfer import RemoteFile, part_path
from exporters.errors import ExportError
from exporters.files import ROOT
from tests.conftest import heed_ctrl_c
from tests.hub import COMMIT, Hub, serving

REPOSITORY = "someone/little-diffusion"
PATTERNS = ("model_index.json", "unet/*", "vae/*")
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = bytes(range(256)) * 1000
TOKEN = "hf_verySecretTokenOfSomebody"
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "README.md": b"# not asked for",
    "v1-5-pruned.safetensors": b"not asked for either",
    "unet/config.json": b'{"in_channels": 4}',
    UNET: WEIGHTS,
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"other",
    "unet/flax_model.msgpack": b"jax",
    "vae/config.json": b"",
    "vae/diffusion_pytorch_model.fp16.bin": b"only half, and a pickle",
}
WANTED = ("model_index.json", "unet/config.json", UNET, "vae/config.json", "vae/diffusion_pytorch_model.fp16.bin")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one small repository, which HF_ENDPOINT names; nobody is logged in."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(hub_transfer, "WAIT_SECONDS", 0.01)
    with serving(Hub(REPOSITORY, dict(FILES), large={UNET})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def fetched(cache: Path, checkpoint: str = REPOSITORY, report: Callable[[str], None] = lambda _: None) -> Path:
    return resolve(checkpoint, patterns=PATTERNS, cache=cache, report=report)


def refusal(cache: Path, checkpoint: str = REPOSITORY) -> str:
    """The one sentence with which a checkpoint is refused."""
    with pytest.raises(ExportError) as refused:
        fetched(cache, checkpoint)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


# --- what comes


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert fetched(tmp_path / "cache", str(tmp_path)) == tmp_path
    assert not (tmp_path / "cache").exists()


def test_only_what_is_needed_is_fetched(hub: Hub, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = fetched(tmp_path, report=lines.append)

    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert found == set(WANTED)
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert folder == tmp_path / "hub" / "someone--little-diffusion" / COMMIT
    assert len(lines) == 1
    assert "256.1 kB to download" in lines[0]


def test_a_second_run_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    folder = fetched(tmp_path)
    hub.asked.clear()

    assert fetched(tmp_path) == folder
    assert [asked.path for asked in hub.asked] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_without_the_hub_a_complete_copy_does(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetched(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    lines: list[str] = []

    assert fetched(tmp_path, report=lines.append) == folder
    assert "cannot be reached" in lines[0]
    (folder / UNET).unlink()
    monkeypatch.setattr(hub_transfer, "ATTEMPTS", 1)
    assert "cannot be had" in refusal(tmp_path)


def test_revisions_have_folders_of_their_own(hub: Hub, tmp_path: Path) -> None:
    other = "f" * 40
    hub.revisions["refs/pr/1"] = other
    hub.revisions[other] = other

    assert fetched(tmp_path, f"{REPOSITORY}@refs/pr/1").name == other
    assert fetched(tmp_path, f"{REPOSITORY}@{COMMIT}").name == COMMIT


def test_the_hub_of_these_tests_is_one_for_huggingface_hub(hub: Hub, tmp_path: Path) -> None:
    path = huggingface_hub.hf_hub_download(REPOSITORY, UNET, endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS


# --- the choice of weights


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
def test_one_form_of_weights_per_folder(names: tuple[str, ...], kept: set[str]) -> None:
    assert chosen(*names) == kept


def test_a_file_that_no_pattern_wants_decides_nothing() -> None:
    assert chosen("unet/a.bin", "unet/a.safetensors", patterns=("unet/*.bin",)) == {"unet/a.bin"}


# --- broken transfers


def test_a_dropped_connection_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET] = [100_000, 70_000]

    folder = fetched(tmp_path)

    assert (folder / UNET).read_bytes() == WEIGHTS
    assert [(asked.range, asked.sent) for asked in hub.transfers(UNET)] == [
        (None, 100_000),
        ("bytes=100000-", 70_000),
        ("bytes=170000-", len(WEIGHTS) - 170_000),
    ]


def test_a_new_run_goes_on_where_the_last_one_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_transfer, "ATTEMPTS", 1)
    hub.cuts[UNET] = [100_000, 0]
    assert "goes on where it stopped" in refusal(tmp_path)
    target = tmp_path / "hub" / "someone--little-diffusion" / COMMIT / UNET
    assert not target.exists()
    assert part_path(target).read_bytes() == WEIGHTS[:100_000]
    hub.asked.clear()
    lines: list[str] = []

    fetched(tmp_path, report=lines.append)

    assert target.read_bytes() == WEIGHTS
    assert not part_path(target).exists()
    assert [(asked.range, asked.sent) for asked in hub.transfers(UNET)] == [("bytes=100000-", len(WEIGHTS) - 100_000)]
    assert sum(asked.sent for asked in hub.asked if "/api/" not in asked.path) == len(WEIGHTS) - 100_000
    assert "156.0 kB to download" in lines[0]
    assert "100.0 kB are there already" in lines[0]


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, tmp_path: Path) -> None:
    hub.ranges = False
    hub.cuts[UNET] = [100_000]

    assert (fetched(tmp_path) / UNET).read_bytes() == WEIGHTS
    assert [asked.sent for asked in hub.transfers(UNET)] == [100_000, len(WEIGHTS)]


def test_it_gives_up_when_nothing_more_comes(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET] = [1000] + [0] * hub_transfer.ATTEMPTS
    assert "goes on where it stopped" in refusal(tmp_path)
    assert hub.cuts[UNET] == []


def test_control_c_leaves_what_came_in(hub: Hub, tmp_path: Path) -> None:
    hub.stall = threading.Event()
    hub.cuts[UNET] = [100_000]
    program = (
        "import sys; from pathlib import Path; from exporters.checkpoints.hub import resolve\n"
        f"resolve({REPOSITORY!r}, patterns={PATTERNS!r}, cache=Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    part = part_path(tmp_path / "hub" / "someone--little-diffusion" / COMMIT / UNET)
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "Stopped; the same command goes on from here." in error
    assert 0 < part.stat().st_size <= 100_000
    kept = part.stat().st_size
    hub.stall.set()
    hub.asked.clear()
    assert (fetched(tmp_path) / UNET).read_bytes() == WEIGHTS
    assert [asked.range for asked in hub.transfers(UNET)] == [f"bytes={kept}-"]


def test_two_processes_do_not_write_one_file(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "someone--little-diffusion" / COMMIT
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another process downloads" in refusal(tmp_path)
    assert fetched(tmp_path) == folder


# --- what came in is wrong


@pytest.mark.parametrize(("name", "hash_name"), [(UNET, "sha256"), ("unet/config.json", "Git hash")])
def test_damaged_content_is_refused_and_deleted(hub: Hub, tmp_path: Path, name: str, hash_name: str) -> None:
    hub.spoiled = {name}
    sentence = refusal(tmp_path)

    assert sentence.startswith(f"{name} came in damaged: its {hash_name} is ")
    target = tmp_path / "hub" / "someone--little-diffusion" / COMMIT / name
    assert not target.exists()
    assert not part_path(target).exists()
    hub.spoiled.clear()
    assert (fetched(tmp_path) / name).read_bytes() == FILES[name]


def test_more_bytes_than_announced_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.announced[UNET] = 1000
    assert refusal(tmp_path) == f"{UNET} should have 1,000 bytes, and the hub sends more; what came in was deleted."


def test_fewer_bytes_than_announced_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.announced[UNET] = len(WEIGHTS) + 1
    assert "answers 416" in refusal(tmp_path)


def test_names_that_lead_out_of_the_folder_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["unet/../../../evil.json"] = b"{}"
    assert "'unet/../../../evil.json', which would lie outside" in refusal(tmp_path / "cache")
    assert not list(tmp_path.rglob("evil*"))


# --- the disk


def test_space_is_looked_at_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.announced[UNET] = 10**18
    sentence = refusal(tmp_path)

    assert "needs 1.0 EB more" in sentence
    assert " has " in sentence
    assert all("/api/" in asked.path for asked in hub.asked)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "hub" / "someone--little-diffusion" / COMMIT / UNET
    target.parent.mkdir(parents=True)
    part_path(target).symlink_to("/dev/full")
    assert "is full; free some space and run the same command" in refusal(tmp_path)


def test_a_cache_that_cannot_be_written_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written: Not a directory" in refusal(tmp_path / "file")


# --- access


def test_the_token_opens_and_goes_to_the_hub_only(
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
def test_no_access(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: bool, given: str | None, words: list[str]
) -> None:
    hub.token, hub.gated = TOKEN, gated
    if given:
        monkeypatch.setenv("HF_TOKEN", given)
    sentence = refusal(tmp_path)
    assert all(word in sentence for word in words), sentence
    assert given is None or given not in sentence


@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_such_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    sentence = refusal(tmp_path, "someone/else")
    assert sentence.startswith(f"There is no repository someone/else at {hub.url}, or ")
    assert sentence.endswith("; nor is there such a folder.")


def test_no_such_revision(hub: Hub, tmp_path: Path) -> None:
    sentence = refusal(tmp_path, f"{REPOSITORY}@v9")
    assert sentence == f"{REPOSITORY} has no branch, tag or commit 'v9' at {hub.url}."


def test_nothing_that_matches(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds none of the files transformer/\*: another kind of model\?"):
        resolve(REPOSITORY, patterns=["transformer/*"], cache=tmp_path)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_out_of_order(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    assert f"(it answers {status})" in refusal(tmp_path)


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    sentence = refusal(tmp_path)
    assert all(word in sentence for word in ("Connection refused", "HF_ENDPOINT", "without a network give a folder"))


def test_something_that_is_no_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "listing", lambda self, commit: {"id": REPOSITORY, "sha": None, "siblings": []})
    assert "does not answer as a hub does" in refusal(tmp_path)
    monkeypatch.setattr(Hub, "listing", lambda self, commit: ["hello"])
    assert "does not answer as a hub does" in refusal(tmp_path)


@pytest.mark.parametrize("endpoint", ["hub.example", "ftp://hub.example", "http://:80"])
def test_an_endpoint_has_to_be_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert refusal(tmp_path) == f"HF_ENDPOINT must be a URL such as https://huggingface.co; got {endpoint!r}."


# --- names


def test_hub_ids() -> None:
    assert parse("runwayml/stable-diffusion-v1-5") == HubId(repository="runwayml/stable-diffusion-v1-5")
    assert parse("a/b.c_d@refs/pr/1") == HubId(repository="a/b.c_d", revision="refs/pr/1")


@pytest.mark.parametrize(
    "name", ["./missing", "../missing", "/x/y", "~/nowhere/at-all", "missing", "a/b/c", "a/", "/", "", "a\\b", "a/b/"]
)
def test_a_path_that_is_not_there_is_no_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name in ("/", ""):  # these are folders
        assert isinstance(parse(name), Path)
        return
    assert refusal(tmp_path / "cache", name).startswith(f"There is no folder {name!r}, and it is no hub id")
    assert not (tmp_path / "cache").exists()


def test_a_missing_folder_beside_others_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "There is no folder 'checkpoints/demo'" in refusal(tmp_path, "checkpoints/demo")
    assert parse("checkpoints/demo@main") == HubId(repository="checkpoints/demo")


@pytest.mark.parametrize(
    "name", ["a b/c", "a/b?c", "a/..", "a--b/c", "-a/b", "a/b.git", "ä/b", "a/b%2fc", "a/" + "b" * 99]
)
def test_bad_ids_are_refused(name: str, tmp_path: Path) -> None:
    assert f"{name!r} is no hub id" in refusal(tmp_path, name)


@pytest.mark.parametrize("revision", ["", "a b", "-x", "../x", "a..b", "x" * 201, "a?b"])
def test_bad_revisions_are_refused(revision: str, tmp_path: Path) -> None:
    assert f"got {revision!r}." in refusal(tmp_path, f"a/b@{revision}")


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert "is a file" in refusal(tmp_path, str(path))


def test_the_bar_is_for_terminals(hub: Hub, tmp_path: Path) -> None:
    """Under a pseudo-terminal there is a bar with bytes and speed; without one, nothing but the sentence."""
    program = (
        "import sys; from pathlib import Path; from exporters.checkpoints.hub import resolve\n"
        f"resolve({REPOSITORY!r}, patterns={PATTERNS!r}, cache=Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program]
    plain = subprocess.run([*command, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True, check=True)
    assert plain.stdout == ""
    assert len(plain.stderr.splitlines()) == 1

    master, slave = os.openpty()
    shown = b""
    process = subprocess.Popen([*command, str(tmp_path / "b")], cwd=ROOT, stderr=slave, stdout=slave,
                               env=os.environ | {"TERM": "xterm", "COLUMNS": "120"})  # fmt: skip
    os.close(slave)
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.wait(30) == 0
    assert "256.1" in shown.decode()
    assert REPOSITORY.encode() in shown


def test_token_and_hub_may_stand_in_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("HF_TOKEN=hf_of_the_file\nHF_ENDPOINT=http://127.0.0.1:1/\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    found = hub_module._Hub.from_env()
    assert (found.endpoint, found.token) == ("http://127.0.0.1:1", "hf_of_the_file")
    assert "hf_of_the_file" not in repr(Settings())


def test_the_repr_of_a_hub_keeps_the_token() -> None:
    assert TOKEN not in repr(hub_module._Hub(endpoint="https://h", token=TOKEN))
