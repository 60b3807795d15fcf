"""Runs torchrun for a leader, and ends with it: `python -m darkroom.parallel.launch PRIVATE_FOLDER RANKS`.

The options are those of `torchrun --standalone`, except for the rendezvous: torchrun's own listens on every network
interface and unpickles what it receives. Here it is one file in the private folder, without keep-alive messages, which
are not needed and would let the file grow for ever.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from darkroom.parallel.processes import die_with_parent

_NEVER = 10**8  # seconds
LEADER_ENDED = signal.SIGUSR1
"""May arrive more than once (see `die_with_parent`). So it is none of the signals that torchrun handles, since torchrun
would handle each of them, even during its shutdown."""
_ENDINGS = (LEADER_ENDED, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main() -> None:
    """Run until the ranks have ended, then remove the private folder."""
    private, ranks = Path(sys.argv[1]), sys.argv[2]
    try:
        _run(private, ranks)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _run(private: Path, ranks: str) -> None:
    """Run torchrun. After it has ended, or was asked to end, this process ignores these signals."""
    for number in (LEADER_ENDED, signal.SIGTERM):  # the second until torchrun has a handler of its own
        signal.signal(number, _end)
    try:
        die_with_parent(LEADER_ENDED)
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # ranks use a file, and do not need its server
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.run import main as torchrun

        try:
            torchrun(_options(private, ranks))
        except SignalException as end:
            sys.exit(128 + end.sigval)
    finally:
        _ignore_signals()


def _end(number: int, _: object) -> None:
    _ignore_signals()
    sys.exit(128 + number)


def _ignore_signals() -> None:
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def _options(private: Path, ranks: str) -> list[str]:
    rendezvous = f"store_type=file,keep_alive_interval={_NEVER}"
    options = {
        "nnodes": "1",
        "nproc-per-node": ranks,
        "max-restarts": "0",  # a rank that comes back alone would wait for the others for ever
        "rdzv-backend": "c10d",
        "rdzv-id": "ranks",
        "rdzv-endpoint": str(private / "rendezvous"),
        "rdzv-conf": rendezvous,
        "local-addr": "127.0.0.1",
        "log-dir": str(private / "logs"),
    }
    return [*(f"--{name}={value}" for name, value in options.items()), "-m", "darkroom.parallel.rank", str(private)]


if __name__ == "__main__":
    main()
