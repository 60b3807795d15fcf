"""Text to image with HiDream-I1 as a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.diffusion.schedulers import FLOW_SCHEDULERS
from darkroom.errors import InvalidInput
from darkroom.pipelines.hidream.checkpoint import Checkpoint
from darkroom.pipelines.hidream.networks import PIPELINE
from darkroom.pipelines.hidream.request import SIDE_MULTIPLE, GenerateRequest, ranges
from darkroom.pipelines.hidream.settings import Settings as HidreamSettings
from darkroom.pipelines.hidream.variants import DEFAULT, VARIANTS
from proxy import pictures
from proxy.generate_fields import PICTURE_FIELDS, PictureFields, Ranges, Text, Whole, optional, validated
from proxy.operations.pictures import ENLARGE_NAMES, PictureOperation
from proxy.services import Services

_OF_THE_VARIANT = ("steps", "guidance_scale")


class HidreamFields(PictureFields):
    """The types; ranges are checked by `GenerateRequest.parse`."""

    scheduler: Text | None = optional("By default the checkpoint's own.", enum=list(FLOW_SCHEDULERS))
    max_sequence_length: Whole | None = optional(
        "Tokens that each encoder reads of a prompt.", GenerateRequest.max_sequence_length
    )


@dataclass(frozen=True, kw_only=True)
class Job(pictures.Job):
    """A validated request.

    :param left_out: inputs whose defaults are the checkpoint's, which the model knows for certain.
    """

    pipeline = PIPELINE
    request: GenerateRequest
    left_out: frozenset[str]

    def inputs(self) -> dict[str, Any]:
        inputs = {**super().inputs(), "max_sequence_length": self.request.max_sequence_length}
        return {name: value for name, value in inputs.items() if name not in self.left_out}


class Hidream(PictureOperation):
    """The fields of the `hidream` pipeline, and those of every `PictureOperation`."""

    name = "hidream"
    fallback_seconds = 1.0
    pipeline = PIPELINE
    side_multiple = SIDE_MULTIPLE
    names = frozenset(HidreamFields.model_fields) | ENLARGE_NAMES

    async def take(self, services: Services, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        for name in PICTURE_FIELDS:
            if fields.get(name) not in (None, ""):
                raise InvalidInput(f"{name} is for the operation generate: HiDream has no ControlNet.", param=name)
        return validated(fields, HidreamFields, self.ranges(services)).named(), {}

    def ranges(self, services: Services) -> Ranges:
        return ranges(HidreamSettings.of(services.settings))

    def job(self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
        checkpoint, limits = _checkpoint(services), HidreamSettings.of(services.settings)
        request = GenerateRequest.parse(fields, limits, VARIANTS[checkpoint.variant if checkpoint else DEFAULT])
        if checkpoint is not None:
            request.sized(checkpoint.side, checkpoint.max_tokens, limits)  # refuses what the model would
        return Job(request=request, left_out=frozenset(name for name in _OF_THE_VARIANT if fields.get(name) is None))


def _checkpoint(services: Services) -> Checkpoint | None:
    """What the export wrote down, for limits, estimates and progress; None where the repository is on another
    machine."""
    try:
        return Checkpoint.read(services.settings.model_repository / PIPELINE.name / "1")
    except (OSError, ValueError, KeyError):
        return None
