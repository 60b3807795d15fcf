"""The model `sd15`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenizers import Tokenizer

from darkroom.diffusion.generation import respond
from darkroom.diffusion.schedulers import SCHEDULERS, make_scheduler
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import TOKENIZER_NAME, Sd15CheckpointInfo
from darkroom.pipelines.sd15.pipeline import Components, generate
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.serving.host import Host, PipelineModel, Reply
from darkroom.serving.networks import ModelSpec, Network


class Sd15Model(PipelineModel):
    """Decoupled: a response with `progress` per step, then one per image."""

    spec = networks.PIPELINE

    def setup(self, host: Host) -> None:
        limits = Settings()
        checkpoint = Sd15CheckpointInfo.read(host.folder)
        for name in (None, *SCHEDULERS):  # imports diffusers now, and not in the first request
            make_scheduler(name, checkpoint.scheduler)
        controls = {kind: spec for kind, spec in networks.CONTROL_UNETS.items() if host.has_neighbour(spec)}
        self._components = Components(
            checkpoint=checkpoint,
            tokenizer=Tokenizer.from_file(str(host.folder / TOKENIZER_NAME)),
            limits=limits,
            text_encoder=host.network(networks.TEXT_ENCODER),
            unet=host.network(networks.UNET),
            vae_encoder=_optional(host, networks.VAE_ENCODER),
            vae_decoder=host.network(networks.VAE_DECODER),
            loras=host.loras([networks.UNET, networks.TEXT_ENCODER, *controls.values()]),
            safety_checker=_optional(host, networks.SAFETY_CHECKER),
            control_unets={kind: host.network(spec) for kind, spec in controls.items()},
        )

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        request = GenerateRequest.parse(fields, self._components.limits)
        components = dataclasses.replace(self._components, stopped=reply.cancelled)
        await respond(generate(request, components), reply.send)


def _optional(host: Host, spec: ModelSpec) -> Network | None:
    """A network that not every repository has."""
    return host.network(spec) if host.has_neighbour(spec) else None
