"""`python -m tests.protocol_server PORT`: a process that speaks Triton's protocol, for tests of the connection alone.

It has the models of `MODELS`. A call whose id is "long" has one response and no end; every other one ends at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")


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
