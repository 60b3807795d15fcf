"""The model `qwen_edit`: its tensors on one side, `pipeline.generate` on the other."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenizers import Tokenizer

from darkroom.diffusion.generation import respond
from darkroom.diffusion.maps import load_maps
from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, make_scheduler
from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.checkpoint import TOKENIZER_NAME, QwenEditCheckpointInfo
from darkroom.pipelines.qwen_edit.pipeline import Components, generate
from darkroom.pipelines.qwen_edit.prompts import PromptReader, make_processor
from darkroom.pipelines.qwen_edit.request import EditRequest
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.serving.host import Host, PipelineModel, Reply


class QwenEditModel(PipelineModel):
    """Decoupled: a response with `progress` per step, then one per result."""

    spec = networks.PIPELINE

    def setup(self, host: Host) -> None:
        checkpoint = QwenEditCheckpointInfo.read(host.folder)
        for name in (None, *FLOW_SCHEDULERS):  # imports diffusers now, and not in the first request
            make_scheduler(name, checkpoint.scheduler)
        settings = Settings()
        self._components = Components(
            checkpoint=checkpoint,
            limits=settings,
            reader=PromptReader(
                checkpoint=checkpoint,
                tokenizer=Tokenizer.from_file(str(host.folder / TOKENIZER_NAME)),
                processor=make_processor(checkpoint),
            ),
            text_encoder=host.network(networks.TEXT_ENCODER),
            transformer=host.network(networks.TRANSFORMER),
            vae_encoder=host.network(networks.VAE_ENCODER),
            vae_decoder=host.network(networks.VAE_DECODER),
            maps=load_maps(settings.map_models, host.folder),
        )

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        parts = self._components
        request = EditRequest.parse(fields, parts.limits, parts.checkpoint.request_defaults)
        components = dataclasses.replace(parts, stopped=reply.cancelled)
        await respond(generate(request, components), reply.send)
