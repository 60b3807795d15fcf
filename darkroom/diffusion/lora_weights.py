"""The LoRAs of a request in a pipeline: by the digests of their files, with their weights at each step.

To Triton a request carries them as JSON, as `darkroom.request.loras.parse_loras` reads it. Names and sessions are
resolved to digests before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from darkroom.diffusion.shares import acts_at
from darkroom.errors import InvalidInput
from darkroom.request.field import Field
from darkroom.request.image import ImageRequest
from darkroom.request.loras import FIELD, LoraChoice, parse_loras
from darkroom.serving.lora_cache import BaseLoras, missing
from darkroom.serving.loras import RowLoras
from darkroom.serving.networks import Array, Network, Tensors

SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array"},
        {"type": "null"},
    ]
}
TAKES_NONE = "The networks of this installation take no LoRAs; exporting the checkpoint again may help."


def read_loras(text: str) -> tuple[LoraChoice, ...]:
    """The LoRAs of the JSON, each of which has a digest.

    :raises InvalidInput: names the value and its range.
    """
    found = parse_loras(text)
    for index, lora in enumerate(found):
        if lora.digest is None:
            raise InvalidInput(f"{FIELD}[{index}].digest is missing: a pipeline knows no names.", param=FIELD)
    return found


def loras_text(loras: Sequence[LoraChoice]) -> str:
    """The JSON that `read_loras` reads."""
    return json.dumps([lora.to_json() for lora in loras])


class LoraRequest(ImageRequest):
    """The request of a family whose networks take LoRAs."""

    loras: Annotated[
        str | None,
        Field(
            help="LoRAs with their weights: a JSON list of objects with `name`, `session_id` or `digest` (SHA-256 of "
            "the file), `weight` (-10 to 10, default 1), `weights_by_step`, and `start` and `end` (shares of the "
            "steps). Triton takes digests alone.",
            convert=lambda text: loras_text(parse_loras(text)),
            json=True,
            schema=SCHEMA,
        ),
    ] = None

    @property
    def lora_choices(self) -> tuple[LoraChoice, ...]:
        """The LoRAs; none where the request names none."""
        return read_loras(self.loras) if self.loras else ()

    def lora_details(self, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the details of an image say of its LoRAs: the field of the request, and what was read of the files.

        :param files: as `require` returns them.
        """
        return {"loras": [lora.to_json() for lora in self.lora_choices], "lora_files": list(files)} if files else {}


def require(loras: Sequence[LoraChoice], stored: BaseLoras | None) -> list[dict[str, Any]]:
    """Refuse LoRAs before the first step; return what was read of their files, for the details of the images.

    :param stored: None where the networks take no LoRAs.
    :raises InvalidInput: no network takes them.
    :raises LoraMissing: one is not on this machine.
    """
    if stored is None:
        if loras:
            raise InvalidInput(TAKES_NONE, param=FIELD)
        return []
    for lora in loras:
        if not stored.has(_digest(lora)):
            raise missing(_digest(lora))
    return [{"name": lora.name, "digest": _digest(lora), **stored.summary(_digest(lora))} for lora in loras]


def _digest(lora: LoraChoice) -> str:
    """The digest of a LoRA, which `read_loras` has checked to be there."""
    return lora.reference[1]


def weight_at(lora: LoraChoice, index: int, steps: int) -> float:
    """The weight at one of the steps, counted from 0."""
    if not acts_at(index, steps, lora.start, lora.end):
        return 0.0
    given = lora.weights_by_step
    return given[index * len(given) // steps] if given else lora.weight


def row_inputs(loras: Sequence[LoraChoice], rows: int, step: tuple[int, int] | None = None) -> dict[str, Array]:
    """What a network call of these rows has beside its inputs; nothing where no LoRA acts.

    :param step: index and number of the steps; None for a network that is called once.
    """
    scales = {_digest(lora): lora.weight if step is None else weight_at(lora, *step) for lora in loras}
    return RowLoras.same(rows, scales).inputs() if any(scales.values()) else {}


def with_loras(network: Network, loras: Sequence[LoraChoice]) -> Network:
    """A network that is called once for a request, with the request's LoRAs for every row."""

    async def call(inputs: Tensors) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        return await network({**inputs, **row_inputs(loras, rows)})

    return call if loras else network
