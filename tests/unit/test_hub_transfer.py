"""Downloads of checkpoints that break off, are damaged, or find no room; the progress bar."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from exporters.checkpoints import hub_transfer
from exporters.checkpoints.hub_transfer import part_path
from exporters.files import ROOT
from tests.conftest import heed_ctrl_c
from tests.hub import COMMIT, FILES, PATTERNS, REPOSITORY, UNET, WEIGHTS, Hub, fetched, refusal


def test_transfer_resumes_after_a_dropped_connection(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET] = [100_000, 70_000]

    folder = fetched(tmp_path)

    assert (folder / UNET).read_bytes() == WEIGHTS
    assert [(asked.range, asked.sent) for asked in hub.transfers(UNET)] == [
        (None, 100_000),
        ("bytes=100000-", 70_000),
        ("bytes=170000-", len(WEIGHTS) - 170_000),
    ]


def test_transfer_resumes_in_a_new_run(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_transfer_from_a_server_without_ranges_starts_again(hub: Hub, tmp_path: Path) -> None:
    hub.ranges = False
    hub.cuts[UNET] = [100_000]

    assert (fetched(tmp_path) / UNET).read_bytes() == WEIGHTS
    assert [asked.sent for asked in hub.transfers(UNET)] == [100_000, len(WEIGHTS)]


def test_transfer_fails_when_nothing_more_arrives(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET] = [1000] + [0] * hub_transfer.ATTEMPTS
    assert "goes on where it stopped" in refusal(tmp_path)
    assert hub.cuts[UNET] == []


def test_transfer_stopped_by_ctrl_c_keeps_what_arrived(hub: Hub, tmp_path: Path) -> None:
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


def test_transfer_of_one_file_is_locked_between_processes(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "someone--little-diffusion" / COMMIT
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another process downloads" in refusal(tmp_path)
    assert fetched(tmp_path) == folder


@pytest.mark.parametrize(("name", "hash_name"), [(UNET, "sha256"), ("unet/config.json", "Git hash")])
def test_transfer_of_damaged_content_is_refused_and_deleted(
    hub: Hub, tmp_path: Path, name: str, hash_name: str
) -> None:
    hub.spoiled = {name}
    sentence = refusal(tmp_path)

    assert sentence.startswith(f"{name} came in damaged: its {hash_name} is ")
    target = tmp_path / "hub" / "someone--little-diffusion" / COMMIT / name
    assert not target.exists()
    assert not part_path(target).exists()
    hub.spoiled.clear()
    assert (fetched(tmp_path) / name).read_bytes() == FILES[name]


def test_transfer_of_more_bytes_than_announced_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.announced[UNET] = 1000
    assert refusal(tmp_path) == f"{UNET} should have 1,000 bytes, and the hub sends more; what came in was deleted."


def test_transfer_of_fewer_bytes_than_announced_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.announced[UNET] = len(WEIGHTS) + 1
    assert "answers 416" in refusal(tmp_path)


def test_transfer_refuses_names_outside_of_the_folder(hub: Hub, tmp_path: Path) -> None:
    hub.files["unet/../../../evil.json"] = b"{}"
    assert "'unet/../../../evil.json', which would lie outside" in refusal(tmp_path / "cache")
    assert not list(tmp_path.rglob("evil*"))


def test_transfer_checks_free_space_first(hub: Hub, tmp_path: Path) -> None:
    hub.announced[UNET] = 10**18
    sentence = refusal(tmp_path)

    assert "needs 1.0 EB more" in sentence
    assert " has " in sentence
    assert all("/api/" in asked.path for asked in hub.asked)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_transfer_to_a_full_disk_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "hub" / "someone--little-diffusion" / COMMIT / UNET
    target.parent.mkdir(parents=True)
    part_path(target).symlink_to("/dev/full")
    assert "is full; free some space and run the same command" in refusal(tmp_path)


def test_transfer_to_a_read_only_cache_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written: Not a directory" in refusal(tmp_path / "file")


def test_transfer_shows_a_bar_on_terminals_only(hub: Hub, tmp_path: Path) -> None:
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
