"""`python -m darkroom.local`: serves a model repository over Triton's inference protocol, without Triton."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc
from tritonclient.grpc import service_pb2_grpc

from darkroom import tracing
from darkroom.local.metrics import MetricsServer
from darkroom.local.protocol import Protocol
from darkroom.local.repository import Repository
from darkroom.parallel.processes import follow_parent
from darkroom.serving.accelerators import Accelerators
from darkroom.serving.in_process import InProcess

log = logging.getLogger("darkroom.local")

_THREADS = 64
"""For images that are decoded and encoded, and whatever else pipelines do beside the event loop."""
_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0))
_GRACE_SECONDS = 5.0


@click.command()
@click.option("--repository", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--grpc", "address", default="127.0.0.1:8001", show_default=True, help="host:port to listen on.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=8002, show_default=True)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu"]),
    default="auto",
    show_default=True,
    help="auto: networks that are placed on the CPU run on DirectML, CoreML or MPS where that is there and works.",
)
def main(repository: Path, address: str, metrics_port: int, device: str) -> None:
    """Serve a model repository to clients of Triton, in one process, until SIGTERM or Ctrl-C."""
    follow_parent()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)  # the supervisor adds times
    tracing.start("local")
    code = asyncio.run(_serve(repository, address, metrics_port, device))
    tracing.close()
    sys.exit(code)


async def _serve(repository: Path, address: str, metrics_port: int, device: str) -> int:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="pipeline"))
    _on_signals(loop, stopping)
    accelerators = await asyncio.to_thread(Accelerators.found) if device == "auto" else Accelerators()
    models = InProcess(repository, accelerators=accelerators)
    folder = Repository(repository, models)
    server = grpc.aio.server(options=_OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Protocol(models, folder), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        log.error("error: %s cannot be opened: %s", address, error)
        return 1
    await server.start()
    metrics = MetricsServer(models, metrics_port)
    others = [asyncio.create_task(metrics.serve()), asyncio.create_task(folder.watch())]
    log.info("serving %s on %s", repository, address)
    waits = [*others, asyncio.create_task(stopping.wait())]
    ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in ended if task in others]
    for task in failed:
        log.error("error: a part of the engine has ended", exc_info=task.exception())
    metrics.should_exit = True
    others[1].cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await server.stop(_GRACE_SECONDS)
    await models.close()
    return 1 if failed else 0


def _on_signals(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Set `stopping` at SIGTERM, Ctrl-C and (on Windows) Ctrl-Break."""
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))


if __name__ == "__main__":
    main()
