"""`darkroom playground` in a process of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import Server, free_port, started

READY = "The playground is at"


def playground_command(url: str, port: int) -> list[str]:
    """The command that serves the page for a service.

    :raises FileNotFoundError: this environment has no playground.
    """
    if not (Path(sys.prefix) / "playground").is_dir():
        raise FileNotFoundError("The playground is not installed: ./install.sh --playground")
    return [sys.executable, "-m", "darkroom_client", "--url", url, "playground", "--port", str(port)]


@contextlib.contextmanager
def running_playground(folder: Path, url: str) -> Iterator[Server]:
    """Start the command of this environment for a service; stop it at the end.

    :raises FileNotFoundError: this environment has no playground; `./install.sh --dev` installs it.
    """
    port = free_port()
    with started(playground_command(url, port), folder, settings={}) as process:
        playground = Server(process=process, url=f"http://127.0.0.1:{port}", folder=folder)
        playground.wait_for_log(READY, timeout=120)
        yield playground
