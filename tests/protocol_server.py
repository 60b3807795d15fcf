"""`python -m tests.protocol_server PORT`: a process that speaks Triton's protocol, for tests of the connection alone.

It has the models of `MODELS`. A call whose id is "long" has one response and no end; every other one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.machine import ROOT
from benchmarks.processes import free_port

MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")


class Servers:
    """Processes of this program."""

    def __init__(self, count: int) -> None:
        self.ports = [free_port() for _ in range(count)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(count):
            self.start(number)

    def start(self, number: int) -> None:
        command = [sys.executable, "-m", "tests.protocol_server", str(self.ports[number])]
        self._processes[number] = subprocess.Popen(command, cwd=ROOT)

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()

    @property
    def entries(self) -> list[tuple[str, str]]:
        """The address of each, and that of its metrics, where nothing listens."""
        return [
            (f"127.0.0.1:{port}", f"http://127.0.0.1:{number}/metrics") for number, port in enumerate(self.ports, 1)
        ]


@contextlib.contextmanager
def running_servers(count: int) -> Iterator[Servers]:
    """Start some, and kill them at the end."""
    made = Servers(count)
    try:
        yield made
    finally:
        for number in range(count):
            with contextlib.suppress(OSError):
                made.kill(number)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # it has no types
    """Answers what the proxy asks."""

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's names
        models = [service_pb2.RepositoryIndexResponse.ModelIndex(name=name, state="READY") for name in MODELS]
        return service_pb2.RepositoryIndexResponse(models=models)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        async for request in requests:
            answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
            yield service_pb2.ModelStreamInferResponse(infer_response=answer)
            if request.id == "long":
                await asyncio.Event().wait()


async def main(port: str) -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
