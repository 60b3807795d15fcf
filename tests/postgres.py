"""A PostgreSQL server of Debian's package as a test subject."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import free_port

_DEBIAN = Path("/usr/lib/postgresql")


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl: the newest of Debian's, which are not on the PATH, else those that are."""
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    there = shutil.which("initdb")
    return found[-1].parent if found else Path(there).resolve().parent if there else None


class Postgres:
    """A server with an empty database. It does not sync to the disk."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        self._port = free_port()
        self.url = f"postgresql://darkroom@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "-U", "darkroom", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, user=self._user, cwd=self._folder, timeout=120, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server that is started, and ends with the test."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # It refuses to run as root. Not in pytest's folder, which only its owner may enter.
    user = next((one for one in ("postgres", "nobody") if _exists(one)), None) if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="darkroom-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    try:
        server = Postgres(programs, folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
