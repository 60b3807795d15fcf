"""What tasks can do: one file for each operation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from darkroom.registry import is_chosen
from darkroom.request.fields import choice
from darkroom.serving.networks import ModelSpec
from proxy.operations.generate import Generate
from proxy.operations.hidream import Hidream
from proxy.operations.pictures import ENLARGE, PictureOperation
from proxy.operations.upscale import Upscale
from proxy.services import Services
from proxy.tasks.models import Output, Tell, Work


class Operation(Protocol):
    """One kind of task."""

    name: str
    pipeline: ClassVar[ModelSpec]
    """The model that does the work."""
    longest_turn: ClassVar[float]
    """Seconds that a step may take alone; longer ones are divided."""
    fallback_seconds: float
    """Seconds per unit before any was measured."""
    names: frozenset[str]
    """Every field that it takes."""

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        """Validate a request: values as JSON or a form has them, files as bytes.

        :raises DarkroomError, RequestValidationError: it is refused.
        """
        ...

    async def run(
        self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes], tell: Tell
    ) -> list[Output]:
        """Do the work of `accept`. May be called again after a crash, and then begins anew.

        :raises DarkroomError: it failed.
        """
        ...


_PICTURES: tuple[PictureOperation, ...] = (Hidream(), Generate())
"""Those that `POST /submit` can do, the one that it rather does first."""
_ALL: tuple[Operation, ...] = (*_PICTURES, Upscale())
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}
_AUTO = "auto"


def operation_named(name: object) -> Operation:
    """:raises InvalidInput: there is none of that name."""
    return OPERATIONS[choice("operation", name, OPERATIONS)]


def group_of(operation: str) -> str:
    """Whom an operation shares its networks with: the name of its pipeline; see `proxy.load.Sharing`."""
    return OPERATIONS[operation].pipeline.name if operation in OPERATIONS else operation


def pipelines_of(operation: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The pipelines that a task needs."""
    return (group_of(operation), *([Upscale.pipeline.name] if ENLARGE in fields else []))


def turn_of(operation: str, demand: float, steps: int) -> float:
    """Seconds of one step of a task alone.

    :param demand: of the whole task.
    """
    longest = OPERATIONS[operation].longest_turn if operation in OPERATIONS else math.inf
    return min(longest, demand / max(1, steps))


def submit_operation(services: Services) -> PictureOperation:
    """What `POST /submit` does: SUBMIT_OPERATION, or of what there is here the first."""
    wanted = services.settings.submit_operation
    if wanted == _AUTO:
        return next((one for one in _PICTURES if _is_there(one, services)), _PICTURES[-1])
    return next(one for one in _PICTURES if one.name == wanted)


def _is_there(operation: PictureOperation, services: Services) -> bool:
    name, served = operation.pipeline.name, services.monitor.models
    if served:
        return name in served
    there = (services.settings.model_repository / name / "1").is_dir()
    return there and is_chosen(name, services.settings)  # Triton is not up yet, and will serve this
