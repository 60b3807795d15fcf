"""One rank, started by torchrun: `python -m darkroom.parallel.rank PRIVATE_FOLDER`, with RANK in the environment.

It connects to the leader, loads the job's program, and runs it on the leader's command. All ranks read a call's
inputs from the same memory; the first one writes the answer there.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.parallel.job import ANSWER, SOCKET, STORE, RanksJob
from darkroom.parallel.layout import Place
from darkroom.parallel.processes import die_with_parent

if TYPE_CHECKING:
    import torch

    from darkroom.parallel.channel import Channel
    from darkroom.parallel.program import Context

log = logging.getLogger("darkroom.parallel.rank")


class Lifeline:
    """The connection to the leader: receives calls and sends heartbeats. This process ends at once when it breaks."""

    def __init__(self, channel: Channel, beat: float) -> None:
        self._channel = channel
        self._beat = beat
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for target in (self._listen, self._send_beats):
            threading.Thread(target=target, daemon=True).start()

    def messages(self) -> Iterator[dict[str, Any]]:
        """The leader's messages in order; never ends."""
        while True:
            yield self._messages.get()

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._messages.put(message)
        os._exit(0)  # the main thread may be in a collective operation, which cannot be interrupted otherwise

    def _send_beats(self) -> None:
        while True:
            self.send(state="beat")
            time.sleep(self._beat)

    def send(self, **message: Any) -> None:
        """Send a message to the leader. The process ends when there is no leader."""
        try:
            self._channel.send(message)
        except OSError:
            os._exit(0)


def main() -> None:
    """Serve until the leader closes the connection.

    :raises Exception: any failure, after it was reported to the leader.
    """
    die_with_parent(signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from darkroom.parallel.channel import Channel  # imports torch, which takes a second: after `die_with_parent`

    private, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    job = RanksJob.read(private)
    channel = Channel.connect(private / SOCKET)
    channel.send({"state": "hello", "rank": rank})
    lifeline = Lifeline(channel, job.timeouts.beat / 10)
    try:
        _serve(job, rank, private, lifeline)
    except Exception as error:
        lifeline.send(state="failed", reason=f"{type(error).__name__}: {str(error)[:2000]}")
        raise


def _serve(job: RanksJob, rank: int, private: Path, lifeline: Lifeline) -> None:
    from darkroom.parallel.channel import Entry, SharedTensors
    from darkroom.parallel.devices import device_of, kind_of
    from darkroom.parallel.program import find_program

    device = device_of(kind_of(job.device_type), job.devices, rank)
    program = find_program(job.program)
    loaded = program(_join(job, rank, private, device), job.arguments)
    log.info("rank %d of %d is ready on %s with %d parameters", rank, job.layout.size, device, loaded.parameters)
    lifeline.send(state="ready", device=str(device), parameters=loaded.parameters)
    messages = lifeline.messages()
    shared = SharedTensors(next(messages)["fd"])
    for call in messages:
        tensors = shared.views([Entry(**fields) for fields in call["tensors"]])
        output = tensors.pop(ANSWER)
        answer = loaded.run(tensors)
        if rank == 0:
            output.copy_(answer)
        del tensors, output  # so that a mapping that has become too small is unmapped
        lifeline.send(state="done", call=call["call"])


def _join(job: RanksJob, rank: int, private: Path, device: torch.device) -> Context:
    """Connect to the other ranks, and check a sum over them."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from darkroom.parallel.devices import kind_of
    from darkroom.parallel.program import Context, check_sum

    dist.init_process_group(
        kind_of(job.device_type).backend,
        init_method=f"file://{private / STORE}",
        rank=rank,
        world_size=job.layout.size,
        timeout=timedelta(seconds=job.timeouts.start),  # for calls the leader has its own deadline, and kills the ranks
    )
    check_sum(device, dist.group.WORLD, job.layout.size)
    # After that sum, because a mesh that finds the device unused selects another one, by LOCAL_RANK.
    axes = job.layout.axes
    mesh = init_device_mesh(device.type, tuple(axes.values()), mesh_dim_names=tuple(axes))
    return Context(place=Place(layout=job.layout, rank=rank), device=device, mesh=mesh)


if __name__ == "__main__":
    main()
