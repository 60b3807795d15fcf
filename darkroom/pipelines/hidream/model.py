"""The model `hidream`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
from typing import Any

from darkroom.diffusion.generation import respond
from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, make_scheduler
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.checkpoint import ENCODERS, HidreamCheckpointInfo
from darkroom.pipelines.hidream.pipeline import Components, generate
from darkroom.pipelines.hidream.prompts import load_prompt_tokenizers
from darkroom.pipelines.hidream.request import GenerateRequest
from darkroom.pipelines.hidream.settings import Settings
from darkroom.serving.host import Host, PipelineModel, Reply


class HidreamModel(PipelineModel):
    """Decoupled: a response with `progress` per step, then one per image."""

    spec = networks.PIPELINE

    def setup(self, host: Host) -> None:
        checkpoint = HidreamCheckpointInfo.read(host.folder)
        for name in (None, *FLOW_SCHEDULERS):  # imports diffusers now, and not in the first request
            make_scheduler(name, checkpoint.scheduler)
        self._components = Components(
            checkpoint=checkpoint,
            limits=Settings(),
            readers=load_prompt_tokenizers(host.folder, checkpoint),
            encoders={name: host.network(spec) for name, spec in zip(ENCODERS, networks.ENCODERS, strict=True)},
            transformer=host.network(
                networks.TRANSFORMER, size=networks.padded_area(networks.PATCH_SIZE**2 * checkpoint.max_tokens)
            ),
            vae_decoder=host.network(networks.VAE_DECODER),
        )

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        parts = self._components
        request = GenerateRequest.parse(fields, parts.limits, parts.checkpoint.request_defaults)
        components = dataclasses.replace(parts, stopped=reply.cancelled)
        await respond(generate(request, components), reply.send)
