"""The model that takes LoRA files: it reads one for the networks of its label, and keeps it where they find it.

It has a process of its own: reading a large file takes seconds, and memory of several times its size.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

import numpy as np

from darkroom.diffusion.lora.pack import LoraPack
from darkroom.diffusion.lora.read import read
from darkroom.diffusion.lora_targets import targets_of
from darkroom.diffusion.lora_weights import TAKES_NONE
from darkroom.errors import InvalidInput
from darkroom.serving.host import Host, PipelineModel, Reply
from darkroom.serving.lora_cache import BaseLoras
from darkroom.serving.networks import ModelSpec, TensorSpec

FILE, SUMMARY = "file", "summary"
_MOST_NAMES = 20
"""Maximum number of names of tensors in a summary."""


def reader_spec(family: str, *, on_demand: bool = False) -> ModelSpec:
    """The model of a family, whose class `Loras` is in the module `loras` of the family's folder."""
    return ModelSpec(
        name=f"{family}_loras",
        backend="python",
        implementation=f"darkroom.pipelines.{family}.loras:Loras",
        decoupled=True,
        on_demand=on_demand,
        calls_networks=False,
        inputs=(TensorSpec(name=FILE, dtype="UINT8", dims=(-1,), help="a LoRA file in safetensors; empty: none"),),
        outputs=(TensorSpec(name=SUMMARY, dtype="STRING", dims=(1,), help="JSON: what was read of it"),),
        canary=lambda: {FILE: np.zeros(0, np.uint8)},
    )


class LoraReader(PipelineModel):
    """Subclasses set `spec` and `networks`. Reads one file at a time.

    :cvar networks: those that LoRAs change.
    """

    networks: ClassVar[tuple[ModelSpec, ...]]

    def setup(self, host: Host) -> None:
        self._stored = host.loras(self.networks)
        self._base = self.spec.labelled(host.label).name.replace("_loras", "", 1)
        self._turn = asyncio.Lock()

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        data = bytes(fields[FILE])
        if not data:
            summary = {"takes_loras": self._stored is not None}
        elif self._stored is None:
            raise InvalidInput(TAKES_NONE, param=FILE)
        else:
            async with self._turn:
                summary = await asyncio.to_thread(self._take, data, self._stored)
        reply.send({SUMMARY: np.array([json.dumps(summary)], np.object_)}, final=True)

    def _take(self, data: bytes, stored: BaseLoras) -> dict[str, Any]:
        pack = read(data, targets_of(self._base, stored.layouts))
        summary = summary_of(pack)
        stored.write(pack.digest, pack.layers, summary)
        return {"digest": pack.digest, **summary}


def summary_of(pack: LoraPack) -> dict[str, Any]:
    """What people want to know of a LoRA file, as JSON has it."""
    said = pack.metadata
    return {
        "applied": pack.applied,
        "total": pack.total,
        "unused": list(pack.unused[:_MOST_NAMES]),
        "rank": pack.rank,
        "alpha": said.alpha,
        "base_model": said.base_model,
        "title": said.title,
        "trigger_words": list(said.trigger_words),
        "tags": list(said.tags[:_MOST_NAMES]),
        "warnings": list(pack.warnings),
    }
