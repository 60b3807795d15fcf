"""A supervised process and what it leaves behind; where it is reached."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from darkroom.parallel.processes import die_with_parent
from darkroom.settings import Settings
from supervisor.child import Child
from supervisor.service import Service
from supervisor.supervision import address_of

PROGRAM = """
import subprocess, sys
kept = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{kept.pid}\\n")
kept.wait()
"""


def test_child_that_holds_its_output_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a rank of a divided model that hangs in its driver."""
    monkeypatch.setattr("supervisor.child._GONE_SECONDS", 0.5)
    noted = tmp_path / "pid"

    async def scenario() -> None:
        child = Child("server", [sys.executable, "-c", PROGRAM, str(noted)], dict(os.environ), log_name="server")
        await child.start()
        while not noted.exists() or not noted.read_text().endswith("\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await child.kill()
        assert 0.5 <= time.monotonic() - began < 5
        assert not child.alive
        os.kill(int(noted.read_text()), signal.SIGKILL)
        assert child._process is not None
        assert child._process.stdout is not None
        while not child._process.stdout.at_eof():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)  # asyncio closes the pipe

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_child_of_an_ended_parent_does_not_start() -> None:
    """Between fork and the order to the kernel; nothing would ever end it."""
    started = partial(die_with_parent, signal.SIGTERM, os.getpid())
    assert subprocess.run(["true"], preexec_fn=started, check=False).returncode == 0
    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        subprocess.run(["true"], preexec_fn=partial(die_with_parent, signal.SIGTERM, os.getpid() + 1), check=False)


def test_child_that_cannot_be_started_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As when there is no memory for it; whatever else works goes on."""

    async def scenario() -> None:
        service = Service(Settings(_env_file=None, state_dir=tmp_path))
        program = tmp_path / "program"
        child = Child("server", [str(program)], dict(os.environ))
        await service._revive(child)
        assert not child.alive
        program.write_text("#!/bin/sh\nsleep 60\n")
        program.chmod(0o755)
        await service._revive(child)
        assert child.alive
        await child.kill()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert "server cannot be started: " in caplog.text


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.1.2.3", "10.1.2.3"), ("darkroom", "darkroom")],
)
def test_supervisor_address_of_a_host(host: str, address: str) -> None:
    assert address_of(host, 80) == f"http://{address}:80"
