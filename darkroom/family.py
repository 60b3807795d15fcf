"""A model family as data: name, operation, fields of a request, and the models that serve it.

`darkroom/pipelines/<family>/family.py` has the family's own as `FAMILY`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from darkroom.browser_networks import BrowserNetworks
from darkroom.diffusion.checkpoint import CheckpointInfo
from darkroom.request.request import Request
from darkroom.serving.networks import ModelSpec

Operation = Literal["generate", "edit", "upscale", "train"]
"""The operations that clients can request."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of checkpoint and how it is served.

    :param name: the name of its folders, and the default name of its pipeline model.
    :param title: for people.
    :param operation: what it does.
    :param order: of the families of one operation that are installed the lowest one is the default.
    :param pipeline: the model that requests go to.
    :param specs: all of its models, the pipeline included.
    :param request: the fields of a request.
    :param checkpoint: the class that reads pipeline.json; None where the pipeline has no checkpoint of its own.
    :param lora_reader: the model that takes LoRA files (`darkroom.diffusion.lora_reader`); None where it takes none.
    :param features: further abilities by a name for clients: a function of the names of the served models.
    :param lora_training: of the families that are exported, LoRAs of the one with the lowest number are trained where
        nothing else is set; None: its LoRAs cannot be trained.
    :param example: the fields of an example request, without images.
    :param seconds_per_unit: of work, before any was measured: of a diffusion family, seconds per row and step.
    :param browser: networks that browsers may run by themselves: a function of the service's settings; None where there
        are none.
    :param longest_turn: seconds that one call of a network may take alone; what takes longer is divided into calls.
    """

    name: str
    title: str
    operation: Operation
    order: int
    pipeline: ModelSpec
    specs: tuple[ModelSpec, ...]
    request: type[Request]
    checkpoint: type[CheckpointInfo] | None = None
    lora_reader: ModelSpec | None = None
    features: Callable[[Collection[str]], Mapping[str, Any]] = lambda served: {}
    lora_training: int | None = None
    example: Mapping[str, Any] = field(default_factory=dict)
    seconds_per_unit: float
    longest_turn: float = math.inf
    browser: Callable[[Any], BrowserNetworks] | None = None

    @property
    def export_command(self) -> str:
        """The command that exports a model of it."""
        return f"python -m exporters {'prepare' if self.checkpoint is None else 'export PATH_OR_ID'}"

    def limits(self, settings: Any) -> dict[str, Any]:
        """Return the limits of the installation, from the family's settings."""
        return {name: getattr(settings, name) for name in type(settings).model_fields if name.startswith("max_")}

    def read_checkpoint(self, repository: Path, label: str = "") -> CheckpointInfo | None:
        """Return the checkpoint information that the export wrote; None if it cannot be read, as for a repository on
        another machine.

        :param label: see `ModelSpec.labelled`.
        """
        if self.checkpoint is None:
            return None
        try:
            return self.checkpoint.read(repository / self.pipeline.labelled(label).name / "1")
        except (OSError, ValueError, KeyError):
            return None
