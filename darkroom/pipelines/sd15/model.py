"""The Triton model `sd15`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from darkroom.networks import Array
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import TOKENIZER_NAME, Checkpoint
from darkroom.pipelines.sd15.pipeline import Finished, Progress, Runner, generate
from darkroom.pipelines.sd15.request import GenerateRequest, Limits
from darkroom.schedulers import SCHEDULERS, make_scheduler
from darkroom.triton_model import PipelineModel, Reply


class Sd15Model(PipelineModel):
    """Decoupled: a response with `progress` per step, then one per picture."""

    spec = networks.PIPELINE

    def setup(self) -> None:
        torch.set_num_threads(1)  # a step's arithmetic is tiny, and the cores are the networks'
        limits = Limits.from_env()
        checkpoint = Checkpoint.read(self.folder)
        for name in (None, *SCHEDULERS):  # imports diffusers now, and not in the first request
            make_scheduler(name, checkpoint.scheduler)
        controls = {kind: spec for kind, spec in networks.CONTROL_UNETS.items() if self.has_neighbour(spec)}
        self._runner = Runner(
            checkpoint=checkpoint,
            tokenizer=Tokenizer.from_file(str(self.folder / TOKENIZER_NAME)),
            limits=limits,
            text_encoder=self.network(networks.TEXT_ENCODER),
            unet=self.network(networks.UNET),
            vae_decoder=self.network(networks.VAE_DECODER),
            control_unets={kind: self.network(spec) for kind, spec in controls.items()},
        )

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        image = fields.pop("control_image", None)
        given = fields if image is None else {**fields, "control_image": True}
        request = GenerateRequest.parse(given, self._runner.limits)
        runner = dataclasses.replace(self._runner, stopped=reply.cancelled)
        steps = 0
        async with aclosing(generate(request, None if image is None else image.tobytes(), runner)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    steps = event.total
                    reply.send(_progress(event))
                else:
                    reply.send(_finished(event, steps), final=event.last)


def _progress(event: Progress) -> Mapping[str, Array]:
    outputs = {"progress": np.array([event.done, event.total], np.int32)}
    for name, data in (("preview", event.preview), ("control_map", event.control_map)):
        if data is not None:
            outputs[name] = np.frombuffer(data, np.uint8)
    return outputs


def _finished(event: Finished, steps: int) -> Mapping[str, Array]:
    return {
        "progress": np.array([steps, steps], np.int32),
        "image": np.frombuffer(event.data, np.uint8),
        "shape": np.array(event.shape, np.int32),
        "details": np.array([json.dumps(event.details)], np.object_),
    }
