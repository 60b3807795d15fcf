"""The model `sdxl`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
from typing import Any

from darkroom.diffusion.generation import respond
from darkroom.diffusion.schedulers import SCHEDULERS, make_scheduler
from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.checkpoint import SdxlCheckpointInfo
from darkroom.pipelines.sdxl.pipeline import Components, generate
from darkroom.pipelines.sdxl.prompts import load_prompt_tokenizers
from darkroom.pipelines.sdxl.request import GenerateRequest
from darkroom.pipelines.sdxl.settings import Settings
from darkroom.serving.host import Host, PipelineModel, Reply


class SdxlModel(PipelineModel):
    """Decoupled: a response with `progress` per step, then one per image."""

    spec = networks.PIPELINE

    def setup(self, host: Host) -> None:
        checkpoint = SdxlCheckpointInfo.read(host.folder)
        for name in (None, *SCHEDULERS):  # imports diffusers now, and not in the first request
            make_scheduler(name, checkpoint.scheduler)
        controls = {kind: spec for kind, spec in networks.CONTROL_UNETS.items() if host.has_neighbour(spec)}
        refined = host.has_neighbour(networks.REFINER_UNET)
        self._components = Components(
            checkpoint=checkpoint,
            limits=Settings(),
            readers=load_prompt_tokenizers(host.folder, checkpoint),
            text_encoders=[host.network(spec) for spec in networks.TEXT_ENCODERS],
            unet=host.network(networks.UNET),
            refiner_unet=host.network(networks.REFINER_UNET) if refined else None,
            vae_encoder=host.network(networks.VAE_ENCODER) if host.has_neighbour(networks.VAE_ENCODER) else None,
            vae_decoder=host.network(networks.VAE_DECODER),
            loras=host.loras([networks.UNET, *networks.TEXT_ENCODERS, *controls.values()]),
            control_unets={kind: host.network(spec) for kind, spec in controls.items()},
        )

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        parts = self._components
        request = GenerateRequest.parse(fields, parts.limits, parts.checkpoint.request_defaults)
        components = dataclasses.replace(parts, stopped=reply.cancelled)
        await respond(generate(request, components), reply.send)
