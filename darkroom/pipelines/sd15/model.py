"""The Triton model `sd15`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tokenizers import Tokenizer

from darkroom.diffusion.generation import respond
from darkroom.diffusion.schedulers import SCHEDULERS, make_scheduler
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import TOKENIZER_NAME, Checkpoint
from darkroom.pipelines.sd15.pipeline import Components, generate
from darkroom.pipelines.sd15.request import GenerateRequest, Limits
from darkroom.serving.triton_model import PipelineModel, Reply


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
        self._components = Components(
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
        request = GenerateRequest.parse(given, self._components.limits)
        components = dataclasses.replace(self._components, stopped=reply.cancelled)
        events = generate(request, None if image is None else image.tobytes(), components)
        await respond(events, reply.send)
