"""Which checkpoint LoRAs are trained on, and which model is served of it."""

from __future__ import annotations

import json
from pathlib import Path

from darkroom.errors import Conflict
from darkroom.family import Family
from darkroom.registry import families
from darkroom.settings import ROOT, Settings
from proxy.models import ServedModel
from proxy.services import Services

_MANIFEST = "export.json"
"""What an export was made of, in the folder of the model: see `exporters.manifest`."""


def training_checkpoint(settings: Settings) -> str:
    """The checkpoint that TRAIN_CHECKPOINT names, else the one that a served model was exported from.

    :returns: an absolute path, or a hub id.
    :raises Conflict: there is none.
    """
    if settings.train_checkpoint:
        path = ROOT / settings.train_checkpoint
        return str(path) if path.exists() else settings.train_checkpoint
    known = [family for family in families().values() if family.lora_training is not None]
    for family in sorted(known, key=lambda family: family.lora_training or 0):
        source = _source(family, settings.model_repository)
        if source is not None:
            return source
    titles = " or ".join(family.title for family in known)
    raise Conflict(
        f"There is no checkpoint to train on: no export of {titles} is here whose checkpoint is still there. "
        "TRAIN_CHECKPOINT names one."
    )


def served_model(services: Services, checkpoint: str) -> ServedModel | None:
    """The model that Triton serves of a checkpoint, and that takes LoRAs; None if there is none.

    :param checkpoint: as `training_checkpoint` returns it.
    """
    for family in families().values():
        source = _source(family, services.settings.model_repository) if family.lora_reader is not None else None
        model = ServedModel(family=family)
        if source is not None and ROOT / source == ROOT / checkpoint and model.name in services.monitor.models:
            return model
    return None


def _source(family: Family, repository: Path) -> str | None:
    """The checkpoint that a family's pipeline was exported from; None if there is no export, or it is gone."""
    try:
        raw = json.loads((repository / family.pipeline.name / "1" / _MANIFEST).read_text())
        name = raw["sources"]["checkpoint"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    gone = not isinstance(name, str) or (Path(name).is_absolute() and not Path(name).exists())
    return None if gone else str(name)
