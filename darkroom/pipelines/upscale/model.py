"""The model `upscale`: its tensors on one side, `pipeline.upscale` on the other."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from darkroom.errors import InvalidInput
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale.networks import UpscaleNetwork
from darkroom.pipelines.upscale.pipeline import UpscaleContext, upscale
from darkroom.pipelines.upscale.request import UpscaleRequest
from darkroom.pipelines.upscale.settings import Settings
from darkroom.serving.host import Host, PipelineModel, Reply
from darkroom.serving.networks import Network, Tensors

_TILES_CPU = 3
"""Default tiles at a network on a CPU, each of another request: one that runs, and a batch that is gathered."""


class UpscaleModel(PipelineModel):
    """Decoupled: a response with `progress` per tile, then one with the image."""

    spec = networks.PIPELINE

    def setup(self, host: Host) -> None:
        self._limits = Settings()
        self._networks = {network: self._network(host, network) for network in networks.NETWORKS}

    def _network(self, host: Host, network: UpscaleNetwork) -> tuple[Network, int | None]:
        """A network, and the largest window that it is given by default."""
        window = network.window_cpu if host.on_cpu(network.spec()) else None
        most = self._limits.tiles_at_network

        def room(inputs: Tensors) -> float:
            rows, height, width, _ = inputs["image"].shape
            return max(rows / most, rows * height * width / (_TILES_CPU * window**2) if window else 0.0)

        return host.network(network.spec(), room=room, each=1 / _TILES_CPU if window else 1.0), window

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        request = UpscaleRequest.parse(fields, self._limits)
        if "image" not in request.model_fields_set:
            raise InvalidInput("image is missing.", param="image")
        total = 0

        def report(done: int, of: int) -> None:
            nonlocal total
            total = of
            if done < of:  # the last one travels with the image
                reply.send({"progress": np.array([done, of], np.int32)})

        network, window = self._networks[request.network]
        runner = UpscaleContext(
            network=network,
            limits=self._limits,
            window=window,
            on_progress=report,
            stopped=reply.cancelled,
        )
        result = await upscale(request.image, request, runner)
        details = {
            "model": request.network.label,
            "network": request.network.model_name,
            "scale": request.factor,
            "tile": result.tile,
            "format": request.format,
        }
        if result.dropped:
            details["dropped_metadata"] = result.dropped
        reply.send(
            {
                "progress": np.array([total, total], np.int32),
                "upscaled": np.frombuffer(result.data, np.uint8),
                "shape": np.array(result.shape, np.int32),
                "details": np.array([json.dumps(details)], np.object_),
            },
            final=True,
        )
