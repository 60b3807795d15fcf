"""The LoRAs of a request, by the digests of their files, and their weights at each step.

To Triton a request carries them as JSON: a list of objects with `digest`, and where they are not as usual `weight`,
`weights_by_step`, `start` and `end`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.request.field import Field
from darkroom.request.fields import shown
from darkroom.serving.lora_cache import LoraCache, missing
from darkroom.serving.loras import RowLoras, is_digest
from darkroom.serving.networks import Array, Network, Tensors

WEIGHT_RANGE = (-10.0, 10.0)
MOST_LORAS = 8
"""Of one request."""
MOST_WEIGHTS = 1000
"""Of `weights_by_step`."""


@dataclass(frozen=True, kw_only=True)
class LoraWeights:
    """One LoRA.

    :param digest: SHA-256 of its file.
    :param weight: what its change of the weights is multiplied with.
    :param weights_by_step: in place of `weight` in the denoising network: one for each step, or fewer that are spread
        over the steps evenly; empty for `weight` at all steps.
    :param start, end: shares of the steps (0..1) between which it acts in the denoising network.
    """

    digest: str
    weight: float = 1.0
    weights_by_step: tuple[float, ...] = ()
    start: float = 0.0
    end: float = 1.0

    def at(self, index: int, steps: int) -> float:
        """The weight at one of the steps."""
        if index / steps < self.start or (index + 1) / steps > self.end:
            return 0.0
        given = self.weights_by_step
        return given[index * len(given) // steps] if given else self.weight


def parse_loras(text: str) -> tuple[LoraWeights, ...]:
    """Read the JSON.

    :raises InvalidInput: names the value and its range.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _invalid(f"loras must be a JSON list of objects; got {shown(text)}.")
    if len(entries) > MOST_LORAS:
        raise _invalid(f"loras must be at most {MOST_LORAS}; got {len(entries)}.")
    found = tuple(_lora(entry) for entry in entries)
    digests = [lora.digest for lora in found]
    if twice := next((digest for digest in digests if digests.count(digest) > 1), None):
        raise _invalid(f"loras has {twice} twice.")
    return found


def _lora(entry: Mapping[str, Any]) -> LoraWeights:
    if unknown := entry.keys() - {field.name for field in fields(LoraWeights)}:
        raise _invalid(f"loras: {shown(min(unknown))} is no field of a LoRA.")
    if not is_digest(entry.get("digest")):
        raise _invalid(
            f"loras: digest must be a SHA-256 in 64 lower-case hexadecimal digits; got {shown(entry.get('digest'))}."
        )
    weights = entry.get("weights_by_step", ())
    if not isinstance(weights, list | tuple) or len(weights) > MOST_WEIGHTS:
        raise _invalid(f"loras: weights_by_step must be a list of at most {MOST_WEIGHTS} numbers.")
    lora = LoraWeights(
        digest=entry["digest"],
        weight=_number(entry.get("weight", 1.0), "weight", WEIGHT_RANGE),
        weights_by_step=tuple(_number(weight, "weights_by_step", WEIGHT_RANGE) for weight in weights),
        start=_number(entry.get("start", 0.0), "start", (0.0, 1.0)),
        end=_number(entry.get("end", 1.0), "end", (0.0, 1.0)),
    )
    if lora.start >= lora.end:
        raise _invalid(f"loras: start must be below end; got {lora.start:g} and {lora.end:g}.")
    return lora


def _number(value: object, name: str, bounds: tuple[float, float]) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or not bounds[0] <= value <= bounds[1]:  # type: ignore[arg-type,operator]
        raise _invalid(f"loras: {name} must be from {bounds[0]:g} to {bounds[1]:g}; got {shown(value)}.")
    return float(value)  # type: ignore[arg-type]


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, param="loras")


def loras_text(loras: Sequence[LoraWeights]) -> str:
    """The JSON that `parse_loras` reads."""
    return json.dumps([_said(lora) for lora in loras])


def _said(lora: LoraWeights) -> dict[str, Any]:
    """The values that are not as usual."""
    values = {field.name: getattr(lora, field.name) for field in fields(lora)}
    return {field.name: values[field.name] for field in fields(lora) if values[field.name] != field.default}


LORAS_FIELD = Field(
    help="LoRAs by the digests of their files, with their weights: JSON, see darkroom/diffusion/lora_weights.py.",
    convert=lambda text: loras_text(parse_loras(text)),
    rest=False,
)
"""The field of a request."""


def require(loras: Sequence[LoraWeights], cache: LoraCache | None) -> None:
    """Refuse LoRAs before the first step.

    :param cache: None where the networks take no LoRAs.
    :raises InvalidInput: no network takes them.
    :raises LoraMissing: one is not on this machine.
    """
    if loras and cache is None:
        raise _invalid("The networks of this installation take no LoRAs: export the checkpoint again.")
    for lora in loras:
        if cache is not None and not cache.has(lora.digest):
            raise missing(lora.digest)


def row_inputs(loras: Sequence[LoraWeights], rows: int, step: tuple[int, int] | None = None) -> dict[str, Array]:
    """What a network call of these rows has beside its inputs; nothing where no LoRA acts.

    :param step: index and number of the steps; None for a network that is called once.
    """
    scales = {lora.digest: lora.weight if step is None else lora.at(*step) for lora in loras}
    return RowLoras.same(rows, scales).inputs() if any(scales.values()) else {}


def with_loras(network: Network, loras: Sequence[LoraWeights]) -> Network:
    """A network that is called once for a request, with the request's LoRAs for every row."""

    async def call(inputs: Tensors) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        return await network({**inputs, **row_inputs(loras, rows)})

    return call if loras else network
