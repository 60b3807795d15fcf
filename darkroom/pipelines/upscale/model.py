"""The Triton model `upscale`: its tensors on one side, `pipeline.upscale` on the other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np

from darkroom.errors import InvalidInput
from darkroom.pipelines.upscale import networks
from darkroom.pipelines.upscale.pipeline import Runner, upscale
from darkroom.pipelines.upscale.request import Limits, UpscaleRequest
from darkroom.triton_model import PipelineModel, Reply


class UpscaleModel(PipelineModel):
    """Decoupled: a response with `progress` per tile, then one with the picture."""

    spec = networks.PIPELINE

    def setup(self) -> None:
        self._limits = Limits.from_env()
        self._networks = {
            n: (self.network(n.spec()), asyncio.Semaphore(self._limits.tiles_at_network)) for n in networks.NETWORKS
        }

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        data = fields.pop("image", None)
        if data is None:
            raise InvalidInput("image is missing.", param="image")
        request = UpscaleRequest.parse(fields, self._limits)
        total = 0

        def report(done: int, of: int) -> None:
            nonlocal total
            total = of
            if done < of:  # the last one travels with the picture
                reply.send({"progress": np.array([done, of], np.int32)})

        network, places = self._networks[request.network]
        runner = Runner(
            network=network,
            places=places,
            limits=self._limits,
            on_progress=report,
            stopped=reply.cancelled,
        )
        result = await upscale(data.tobytes(), request, runner)
        details = {
            "model": request.network.label,
            "network": request.network.model_name,
            "scale": request.scale,
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
