"""The pipeline: one call of the network for each step, and an image of what the last one answered."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from darkroom.pipelines.toy import networks
from darkroom.pipelines.toy.request import COLOURS, ToyRequest
from darkroom.pipelines.toy.settings import Settings

from darkroom.images import Picture, encode
from darkroom.serving.host import Host, PipelineModel, Reply


class ToyModel(PipelineModel):
    """A response with `progress` for each step, then one for each image."""

    spec = networks.PIPELINE

    def setup(self, host: Host) -> None:
        self._paint = host.network(networks.PAINT)
        self._limits = Settings()

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        request = ToyRequest.parse(fields, self._limits)
        colours = np.repeat(np.array([COLOURS[request.colour]], np.float32), request.num_images, axis=0)
        for step in range(request.steps):
            pixels = (await self._paint({"colour": colours}))["image"]
            if request.progress_every:
                reply.send({"progress": np.array([step + 1, request.steps], np.int32)})
        for index, rgb in enumerate(pixels):
            details = {"prompt": request.prompt, "colour": request.colour, "steps": request.steps, "index": index}
            details |= {"seed": request.seed + index, "width": rgb.shape[1], "height": rgb.shape[0]}
            reply.send(
                {
                    "progress": np.array([request.steps, request.steps], np.int32),
                    "image": np.frombuffer(encode(Picture(rgb=rgb), format=request.format, quality=90), np.uint8),
                    "shape": np.array(rgb.shape, np.int32),
                    "details": np.array([json.dumps(details)], np.object_),
                },
                index + 1 == len(pixels),
            )
