"""The Triton model `hidream`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from darkroom.diffusion.generation import respond
from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, make_scheduler
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.checkpoint import ENCODERS, Checkpoint
from darkroom.pipelines.hidream.pipeline import Components, generate
from darkroom.pipelines.hidream.prompts import load_readers
from darkroom.pipelines.hidream.request import GenerateRequest, Limits
from darkroom.pipelines.hidream.variants import VARIANTS
from darkroom.serving.triton_model import PipelineModel, Reply


class HidreamModel(PipelineModel):
    """Decoupled: a response with `progress` per step, then one per picture."""

    spec = networks.PIPELINE

    def setup(self) -> None:
        torch.set_num_threads(1)  # a step's arithmetic is tiny, and the cores are the networks'
        checkpoint = Checkpoint.read(self.folder)
        for name in (None, *FLOW_SCHEDULERS):  # imports diffusers now, and not in the first request
            make_scheduler(name, checkpoint.scheduler)
        self._variant = VARIANTS[checkpoint.variant]
        self._components = Components(
            checkpoint=checkpoint,
            limits=Limits.from_env(),
            readers=load_readers(self.folder, checkpoint),
            encoders={name: self.network(spec) for name, spec in zip(ENCODERS, networks.ENCODERS, strict=True)},
            transformer=self.network(
                networks.TRANSFORMER, size=networks.padded_area(networks.PATCH_SIZE**2 * checkpoint.max_tokens)
            ),
            vae_decoder=self.network(networks.VAE_DECODER),
        )

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        request = GenerateRequest.parse(fields, self._components.limits, self._variant)
        components = dataclasses.replace(self._components, stopped=reply.cancelled)
        await respond(generate(request, components), reply.send)
