"""The operations that clients can request. Each is written once and given a family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.registry import families
from darkroom.request.fields import choice
from darkroom.serving.networks import split_label
from proxy.models import ServedModel
from proxy.operations.base import Operation
from proxy.operations.edit import Edit
from proxy.operations.enlarging import ENLARGE
from proxy.operations.generate import Generate
from proxy.operations.train import Train
from proxy.operations.upscale import Upscale

_KINDS: dict[str, type[Generate] | type[Upscale]] = {"generate": Generate, "edit": Edit, "upscale": Upscale}


def _defaults() -> dict[str, Operation]:
    found: dict[str, Operation] = {}
    for family in sorted(families().values(), key=lambda family: family.order):
        if family.operation in _KINDS and family.operation not in found:
            kind = _KINDS[family.operation]
            found[family.operation] = kind(name=family.operation, model=ServedModel(family=family))
    return {**found, Train.name: Train()}


OPERATIONS: dict[str, Operation] = _defaults()
"""The operations by name, with their default family. Other families are found by the names of their models."""


def operation_named(name: object) -> Operation:
    """Return an operation by its name, or by the name of a model.

    :raises InvalidInput: the name is unknown.
    """
    plain, label = split_label(name.strip().lower()) if isinstance(name, str) else ("", "")
    family = next((one for one in families().values() if plain == one.pipeline.name), None)
    if family is None or name in OPERATIONS:
        known = dict.fromkeys([*OPERATIONS, *(one.pipeline.name for one in families().values())])
        return OPERATIONS[choice("operation", name, known)]
    model = ServedModel(family=family, label=label)
    usual = OPERATIONS[family.operation]
    return usual if usual.pipeline == model.pipeline else _KINDS[family.operation](name=model.name, model=model)


def model_of(operation: str) -> str | None:
    """The name of the model that runs an operation; None if it needs none, or if its family no longer exists.

    :param operation: the name as a task stores it.
    """
    try:
        pipeline = operation_named(operation).pipeline
    except InvalidInput:
        return None
    return pipeline.name if pipeline else None


def group_of(operation: str) -> str:
    """Return the group with which an operation shares its networks: the name of its pipeline; see `proxy.load.Sharing`.

    :param operation: as a task keeps it.
    """
    pipeline = OPERATIONS[operation].pipeline if operation in OPERATIONS else None
    return pipeline.name if pipeline else operation


def pipelines_of(operation: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the pipelines that a task needs.

    :param operation, fields: as the task keeps them.
    """
    needed = [operation_named(operation), *([OPERATIONS["upscale"]] if ENLARGE in fields else [])]
    return tuple(one.pipeline.name for one in needed if one.pipeline)


def turn_of(operation: str, demand: float, steps: int) -> float:
    """Return the seconds of one step of a task that runs alone.

    :param operation: the name as a task stores it.
    :param demand: seconds of the whole task.
    """
    try:
        longest = operation_named(operation).longest_turn
    except InvalidInput:  # its family no longer exists
        longest = math.inf
    return min(longest, demand / max(1, steps))
