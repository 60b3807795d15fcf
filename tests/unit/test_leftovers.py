"""What is left over, and what somebody still uses: shared-memory regions and folders of Triton's Python backend."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor import leftovers
from supervisor.leftovers import SHARED_MEMORY, sweep_environments, sweep_shared_memory

_KEEPS_IT_MAPPED = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
region = mmap.mmap(file, 4096)
os.close(file)
print("mapped", flush=True)
sys.stdin.read()
"""


def _region(name: str) -> Path:
    path = SHARED_MEMORY / f"darkroom_leftover_{os.getpid()}_{name}"
    path.write_bytes(bytes(4096))
    return path


def test_leftover_region_is_removed_once_no_process_maps_it() -> None:
    prefix, region = f"darkroom_leftover_{os.getpid()}_", _region("mapped")
    with subprocess.Popen(
        [sys.executable, "-c", _KEEPS_IT_MAPPED, str(region)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"mapped\n"
        os.utime(region, (0, 0))  # however old it is
        assert sweep_shared_memory(prefix) == 0
        assert region.exists()
        owner.kill()
    assert sweep_shared_memory(prefix) == 1
    assert not region.exists()


def test_leftover_region_that_is_open_but_not_mapped_yet_is_kept() -> None:
    prefix, region = f"darkroom_leftover_{os.getpid()}_", _region("open")
    with region.open("r+b") as file:
        assert sweep_shared_memory(prefix) == 0
        with mmap.mmap(file.fileno(), 4096):
            assert sweep_shared_memory(prefix) == 0
    assert sweep_shared_memory(prefix) == 1


def test_leftover_sweep_touches_no_link_and_nothing_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "other_region").touch()
    (tmp_path / "darkroom_link").symlink_to(tmp_path / "other_region")
    assert sweep_shared_memory(folder=tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("made", "servers", "stays"),
    [
        (100.0, [], False),
        (100.0, [(99.2, 110.0)], True),
        (100.0, [(150.0, 160.0)], False),
        (100.0, [(50.0, 60.0)], False),
        (100.0, [(50.0, float("inf"))], True),
        (100.0, [(50.0, 60.0), (99.0, 105.0)], True),
    ],
    ids=["no server", "its server", "a later server", "an earlier server", "one that still loads", "two servers"],
)
def test_leftover_environment_is_kept_while_a_server_may_own_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: float, servers: list[tuple[float, float]], stays: bool
) -> None:
    folder = tmp_path / "python_env_AbCdEf"
    folder.mkdir()
    os.utime(folder, (made, made))
    monkeypatch.setattr(leftovers, "_server_starts", lambda: iter(servers))
    assert sweep_environments(tmp_path) == (not stays)
    assert folder.exists() == stays


def test_leftover_environment_with_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "python_env_AbCdEf" / "0").mkdir(parents=True)
    (tmp_path / "python_env_file").touch()
    long_ago = time.time() - 1e6
    os.utime(tmp_path / "python_env_AbCdEf", (long_ago, long_ago))
    assert sweep_environments(tmp_path) == 0
